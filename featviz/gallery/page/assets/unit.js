// One unit: its images in all subjects, natural images, trace, cross table and all values of its fate.

let neighbors = { key: null, items: [] };  // the units before and after: those of the grid that the route names

async function showUnit(route, fresh) {
  const section = byId("unit");
  const base = withoutUnit(route);
  if (neighbors.key !== String(base)) {
    const items = sorted(filtered(await unitsOf(base), base), base);
    if (!fresh()) return;
    neighbors = { key: String(base), items };
  }
  const label = route.get("unit");
  let position = neighbors.items.findIndex((item) => labelOf(item) === label);
  let item = neighbors.items[position];
  if (!item) item = await findUnit(label);
  const stored = item ? await detailsOf(item) : null;
  if (!fresh()) return;
  const same = !section.hidden;
  const focused = same && section.contains(document.activeElement) ? document.activeElement.id : "";
  byId("overview").hidden = byId("grid").hidden = true;
  section.hidden = false;
  const back = addressOf(base);
  if (!item) {
    section.replaceChildren(element("h1", { id: "unit-title" }, "No such unit"),
      element("p", { class: "notice" }, `The page has no unit \u201c${label}\u201d. `, element("a", { href: back, id: "back" }, "Back to the panels")));
    unitKeys = { back };
    return;
  }
  lastUnit = labelOf(item);
  const step = (by) => (position >= 0 && neighbors.items[position + by] ? addressOf(withUnit(base, neighbors.items[position + by])) : null);
  unitKeys = { back, previous: step(-1), next: step(1) };
  document.title = `${labelOf(item)} \u2013 ${featviz.summary.title}`;
  const place = position >= 0 ? `${(position + 1).toLocaleString("en")} of ${neighbors.items.length.toLocaleString("en")}` : "not among the panels that pass the filters";
  section.replaceChildren(
    element("nav", { "aria-label": "Units", class: "steps" },
      element("a", { href: back, id: "back" }, "\u2191 All panels"),
      stepLink("previous", "\u2190 Previous"), element("span", { class: "note" }, place), stepLink("next", "Next \u2192"),
      element("span", { class: "note keys" }, "Keys: \u2190 \u2192 previous and next, Escape back to the panels (so do \u2191 at the top of the page and \u2193 at its end)")),
    element("h1", { id: "unit-title", tabindex: "-1" }, labelOf(item)),
    unitHead(item, stored.record),
    element("div", { class: "controls" }, figureButtons("unit", () => ({ items: [item], title: layerOf(item).name, large: true }))),
    unitImages(item, stored),
    element("div", { class: "columns" },
      element("section", { "aria-labelledby": "fate-title" }, element("h2", { id: "fate-title" }, "Fate in the merged network"), fateTable(item, stored.record.fate)),
      element("section", { "aria-labelledby": "cross-title" }, element("h2", { id: "cross-title" }, "What each network sees in each image"), crossTable(stored.record)),
      element("section", { "aria-labelledby": "trace-title" }, element("h2", { id: "trace-title" }, "Activation while the image was made"), tracePlot(stored, item))),
  );
  if (!same) window.scrollTo(0, 0);
  const target = focused && byId(focused)?.matches("a[href], button") ? byId(focused) : byId("unit-title");
  target.focus({ preventScroll: true });
  say(`${labelOf(item)}, ${fateText(item)}, ${place}`);
}

let unitKeys = {};

function stepLink(side, words) {
  return element("a", { id: side, class: "step", href: unitKeys[side], "aria-disabled": unitKeys[side] ? null : "true", role: unitKeys[side] ? null : "link" }, words);
}

async function findUnit(label) {
  const layer = layerNumber(label.slice(0, label.lastIndexOf(":")));
  if (layer < 0) return null;
  await loadLayer(layer);
  return itemsOf(layer).find((item) => labelOf(item) === label) ?? null;
}

// Everything of one unit. Files that cannot be read are said to be missing.
async function detailsOf(item) {
  const get = async (kind) => {
    const [name, at] = chunkOf(kind, item);
    try {
      return [await load(name), at];
    } catch {
      return [null, at];
    }
  };
  const [[images, at], [details], [exemplars]] = await Promise.all([get("images"), get("details"), layerOf(item).exemplars ? get("exemplars") : [null]]);
  return {
    images: images?.[at] ?? null,
    exemplars: exemplars ? { ...exemplars, at } : null,
    record: details?.records[at] ?? {},
    steps: details?.steps[at] ?? [],
    trace: details?.trace?.[at] ?? null,
    traceSteps: details?.trace_steps ?? [],
  };
}

function unitHead(item, record) {
  const score = valueOf(item, "score");
  const margin = valueOf(item, "margin");
  const b = valueOf(item, "b");
  const restart = valueOf(item, "restart");
  const rows = [
    ["Indices", indices(item)],
    ["Match", score === null ? (b === null ? "not known" : "its own partner by construction, or not scored") : `score ${number(score)}${margin === null ? "" : `, margin ${correlation(margin, "", 3)} over the next best unit`}`],
    record.members?.length ? ["Combined from", `${record.members.map((member) => `${member.model ?? ""}:${member.unit ?? ""}${typeof member.weight === "number" ? ` (weight ${number(member.weight)})` : ""}`).join(", ")}${record.further_members ? ` and ${record.further_members} more` : ""}`] : null,
    ["Restart", restart === null ? "not known" : restart === 0 ? "0: the image of the first random start" : `${restart}: this random start reached the highest activation`],
  ];
  return element("dl", { class: "facts" }, rows.filter(Boolean).map(([term, text]) => element("div", {}, element("dt", {}, term), element("dd", {}, text))));
}

function unitImages(item, stored) {
  const known = featviz.summary.subjects.some((_, n) => stored.exemplars && stripOf(stored.exemplars, stored.exemplars.at, item, n, 1, () => 0).length);
  const about = known ? "Below each image: the natural images that excite the unit most, best first." : "No natural images are known.";
  const b = valueOf(item, "combined") ? null : valueOf(item, "b");
  const grid = element("div", { class: "subjects", "--subjects": featviz.summary.subjects.length }, featviz.summary.subjects.map((name, n) => {
    const own = ownUnit(item, n);
    const box = element("div", { class: "large" });
    if (own === null) box.append(element("span", { class: "absent" }, "no such unit"));
    else if (!stored.images) box.append(element("span", { class: "absent" }, "cannot be read"));
    else box.append(picture(stored.images[n], `${labelOf(item)} in ${name}`, () => box.clientWidth));
    const activation = valueOf(item, `activation.${n}`);
    const steps = stored.steps[n];
    const words = own === null ? "" : `unit ${own}${n === 1 && b !== null ? ` (${originalB()}:${b})` : ""}, activation ${number(activation)}${isDead(item, n) ? ", no gradient: dead here" : ""}${steps ? `, ${plural(steps, "step")}` : ""}`;
    const natural = stored.exemplars ? stripOf(stored.exemplars, stored.exemplars.at, item, n, Infinity, () => 64) : [];
    return element("figure", {}, element("figcaption", {}, element("b", {}, name), element("span", { class: "note" }, words)), box,
      natural.length ? element("div", { class: "natural" }, natural) : known ? element("p", { class: "note missing" }, "no natural images") : null);
  }));
  return element("div", {}, grid, element("p", { class: "note" }, about));
}

const FATE_TERMS = {
  agreement: "agreement c of the parents",
  fidelity: "fidelity f of the merged unit to their mean",
  confidence: "confidence: share of resamplings with this verdict",
  variance: "variance over that of the parents' mean",
  "unaligned A": "correlation with A, parents averaged unaligned",
  "random A": "correlation with A, parents aligned at random",
};

function fateTable(item, fate) {
  if (!fate?.verdict) return element("p", { class: "missing" }, "Its fate was not measured.");
  const skipped = new Set(["layer", "unit", "verdict", "likeliest", "partner", "score"]);
  const shown = ([key, found]) => !skipped.has(key) && !key.startsWith("exemplars") && (typeof found !== "object" || found === null || Array.isArray(found));
  const words = (key) => {
    if (FATE_TERMS[key]) return FATE_TERMS[key];
    const [kind, name] = [key.slice(0, key.indexOf(" ")), key.slice(key.indexOf(" ") + 1)];
    if (kind === "correlation") return `correlation with ${name}, measured`;
    if (kind === "predicted") return `correlation with ${name}, predicted from c and f`;
    if (kind === "nearest") return name === "mean" ? "nearest row in the parents' means" : `nearest row in ${name}`;
    if (name === "of halves") return `${kind} on each half of the images`;
    return key;
  };
  const value = (found) => {
    if (Array.isArray(found)) return found.map((part) => value(part)).join(", ");
    return typeof found === "number" || found === null ? (Number.isInteger(found) ? String(found) : number(found, "not measured")) : String(found);
  };
  return element("div", {},
    element("p", { class: "verdict-line" }, swatch(verdictOf(item)), element("b", {}, fateText(item)), " ", fateWords(verdictOf(item))),
    element("table", { class: "figures-table" }, element("caption", { class: "hidden" }, "Values of its fate"),
      element("tbody", {}, Object.entries(fate).filter(shown).map(([key, found]) =>
        element("tr", {}, element("th", { scope: "row" }, words(key)), element("td", { class: "numeric" }, value(found)))))));
}

// Activations of every subject on the image of every subject; the shade is the share of what the subject's own image reaches.
function crossTable(record) {
  const { subjects } = featviz.summary;
  const cross = record.cross;
  if (!cross?.length) return element("p", { class: "missing" }, "It was not measured how the networks respond to each other's images.");
  const share = (i, j) => {
    const [own, value] = [cross[j]?.[j], cross[i]?.[j]];
    return own > 0 && value > 0 ? Math.min(1, value / own) : 0;
  };
  return element("div", {},
    element("div", { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Activations by image and network" },
      element("table", { class: "cross" },
        element("caption", { class: "hidden" }, "Activation of each network on the image made for each network"),
        element("thead", {}, element("tr", {}, element("td", { class: "corner" }), subjects.map((name) => element("th", { scope: "col" }, `seen by ${name}`)))),
        element("tbody", {}, subjects.map((name, i) => element("tr", {}, element("th", { scope: "row" }, `image of ${name}`),
          subjects.map((_, j) => element("td", { class: "numeric", "--shade": `${Math.round(55 * share(i, j))}%` }, number(cross[i]?.[j], "\u2013")))))))),
    element("p", { class: "note" }, "Activations without random transforms. The stronger the shade, the nearer to what the network's own image reaches."));
}

// Arrow keys and Escape, wherever the focus is but in a field.
document.addEventListener("keydown", (event) => {
  if (byId("unit").hidden || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, select, textarea, [role=region]") && event.key !== "Escape") return;
  const top = window.scrollY <= 0;
  const bottom = window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 2;
  const to = {
    ArrowLeft: unitKeys.previous, ArrowRight: unitKeys.next, Escape: unitKeys.back,
    ArrowUp: top ? unitKeys.back : null, ArrowDown: bottom ? unitKeys.back : null,
  }[event.key];
  if (!to) return;
  event.preventDefault();
  location.hash = to;
});
