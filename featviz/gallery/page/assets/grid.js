// The view of a layer's panels, or of those of all layers: its title, its controls, and the panels that pass the filters.

let panels = null;
let gridKey = null;  // the route that the grid shows
let lastUnit = null;  // label of the unit that was looked at last

async function showGrid(route, fresh) {
  const section = byId("grid");
  const base = withoutUnit(route);
  if (gridKey !== String(base) || !panels) {
    const all = await unitsOf(base);
    if (!fresh()) return;
    gridKey = String(base);
    byId("overview").hidden = byId("unit").hidden = true;
    section.hidden = false;
    buildGrid(section, base, all);
    if (!lastUnit) window.scrollTo(0, 0);
  }
  byId("overview").hidden = byId("unit").hidden = true;
  section.hidden = false;
  document.title = `${gridTitle(base)} \u2013 ${featviz.summary.title}`;
  panels?.layOut();
  if (lastUnit) panels?.reveal(lastUnit);
  lastUnit = null;
}

function gridTitle(route) {
  if (route.has("search")) return `Search: ${route.get("search")}`;
  return route.has("all") ? "All layers" : route.get("layer");
}

function buildGrid(section, route, all) {
  const shown = sorted(filtered(all, route), route);
  const focused = section.contains(document.activeElement) ? document.activeElement.id : "";
  const opened = byId("filters")?.open ?? false;
  panels?.remove();
  panels = null;
  section.replaceChildren(element("h1", { id: "grid-title" }, gridTitle(route)));
  if (!route.has("search") && !route.has("all") && layerNumber(route.get("layer")) < 0) {
    section.append(element("p", { class: "notice" }, `This page has no layer \u201c${route.get("layer")}\u201d. Choose one above.`));
    return;
  }
  if (!all.length) {
    section.append(element("p", { class: "notice" }, route.has("search")
      ? "Nothing was found. Write a layer and a unit, such as layer3.1.bn1:17, a unit of the original B, such as B:203, or a part of a layer's name."
      : "No unit of this layer is there yet. Write the page again when more of the atlas is finished."));
    say("0 units");
    return;
  }
  const words = shown.length === all.length ? plural(all.length, "unit") : `${shown.length.toLocaleString("en")} of ${plural(all.length, "unit")}`;
  const layer = featviz.summary.layers[layerNumber(route.get("layer"))];
  if (!route.has("search") && !route.has("all") && verdictsOf([layer]).some(Boolean)) section.append(fateBar(layer));
  section.append(gridControls(route, all, opened), element("p", { id: "count", class: "note" }, words));
  say(words);
  if (!shown.length) {
    section.append(element("p", { class: "notice" }, "No unit passes the filters. ",
      element("a", { href: addressOf(withoutFilters(route)) }, "Show all"), "."));
  } else {
    panels = new Panels(section, shown, route);
  }
  if (focused) byId(focused)?.focus({ preventScroll: true });
}

function withoutFilters(route) {
  const made = new URLSearchParams();
  for (const key of ["layer", "all", "search", "sort"]) if (route.has(key)) made.set(key, route.get(key));
  return made;
}

function gridControls(route, all, opened) {
  const change = (edit) => {
    const made = new URLSearchParams(route);
    edit(made);
    go(made, true);
  };
  const set = (key, value) => change((made) => (value ? made.set(key, value) : made.delete(key)));
  const sort = route.get("sort") ?? "";
  const key = sort.replace(/^-/, "") || "unit";
  const known = namedValues().filter(([name]) => all.some((item) => valueOf(item, name) !== null));
  const measured = all.some((item) => verdictOf(item));
  const orders = [["unit", "unit"], ...known, ...(measured ? [["fate", "fate"]] : []), ["dead", "dead"]];
  const option = (chosen) => ([value, text]) => element("option", { value, selected: value === chosen }, text);
  const down = sort.startsWith("-");
  const exemplars = all.some((item) => layerOf(item).exemplars);
  return element("div", { class: "controls" },
    element("span", {}, element("label", { for: "sort" }, "Sort by "),
      element("select", { id: "sort", onchange: (event) => set("sort", (["unit", "fate", "dead"].includes(event.target.value) ? "" : "-") + event.target.value) },
        orders.map(option(key))),
      element("button", { type: "button", id: "direction", "aria-pressed": String(down), onclick: () => set("sort", (down ? "" : "-") + key) },
        down ? "\u2193 descending" : "\u2191 ascending")),
    element("span", {}, element("label", { for: "size" }, "Images "),
      element("select", { id: "size", onchange: (event) => { remember("size", event.target.value); panels?.layOut(); } },
        Object.keys(SIZES).map((name) => [name, name]).map(option(remembered("size") ?? "medium")))),
    exemplars ? element("span", {}, element("input", {
      type: "checkbox", id: "exemplars", checked: remembered("exemplars") === "yes",
      onchange: (event) => { remember("exemplars", event.target.checked ? "yes" : ""); panels?.layOut(true); },
    }), element("label", { for: "exemplars" }, " natural images")) : null,
    figureButtons("grid", () => panels && { items: panels.items, title: gridTitle(route) }),
    filters(route, all, known, measured, opened, change));
}

function filters(route, all, known, measured, opened, change) {
  const active = [...route.keys()].filter((key) => /^(fate|dead|min\.|max\.)/.test(key)).length;
  const counts = new Map();
  for (const item of all) counts.set(verdictOf(item), (counts.get(verdictOf(item)) ?? 0) + 1);
  const fate = (verdict) => element("label", { class: "chip" },
    element("input", {
      type: "checkbox", id: `fate-${verdictsOf(featviz.summary.layers).indexOf(verdict)}`, checked: route.getAll("fate").includes(fateName(verdict)),
      onchange: (event) => change((made) => {
        const chosen = made.getAll("fate").filter((name) => name !== fateName(verdict));
        made.delete("fate");
        for (const name of event.target.checked ? [...chosen, fateName(verdict)] : chosen) made.append("fate", name);
      }),
    }), swatch(verdict), `${fateName(verdict)} (${counts.get(verdict)})`);
  const bound = (side, key, words) => element("input", {
    type: "number", step: "any", id: `${side}-${key}`, "aria-label": words, value: route.get(`${side}.${key}`) ?? "",
    placeholder: side === "min" ? "from" : "to",
    onchange: ({ target }) => change((made) => (target.value ? made.set(`${side}.${key}`, target.value) : made.delete(`${side}.${key}`))),
  });
  return element("details", { id: "filters", open: opened },
    element("summary", {}, active ? `Filters (${active} in use)` : "Filters"),
    measured ? element("fieldset", {}, element("legend", {}, "Fate"),
      verdictsOf(featviz.summary.layers).filter((verdict) => counts.has(verdict)).map(fate)) : null,
    element("fieldset", {}, element("legend", {}, "Values (units without a value are left out where it is limited)"),
      known.map(([key, words]) => element("span", { class: "range" }, element("span", {}, words),
        bound("min", key, `${words}, from`), bound("max", key, `${words}, to`)))),
    element("fieldset", {}, element("legend", {}, "Dead"),
      element("label", { for: "dead", class: "hidden" }, "Dead units"),
      element("select", { id: "dead", onchange: ({ target }) => change((made) => (target.value ? made.set("dead", target.value) : made.delete("dead"))) },
        [["", "show all units"], ["yes", "only units that are dead somewhere"], ["no", "no units that are dead anywhere"]].map(([value, text]) =>
          element("option", { value, selected: (route.get("dead") ?? "") === value }, text)))),
    active ? element("button", { type: "button", id: "clear", onclick: () => go(withoutFilters(route), true) }, "Clear all filters") : null);
}
