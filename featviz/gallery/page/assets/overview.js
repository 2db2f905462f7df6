// The overview: what the figures mean, fates per layer as bars, and the scatter plot of all units.

let overviewShown = false;

async function showOverview() {
  document.title = featviz.summary.title;
  byId("overview").hidden = false;
  if (overviewShown) return;
  overviewShown = true;
  const { layers } = featviz.summary;
  const units = layers.reduce((sum, layer) => sum + layer.units, 0);
  const body = byId("overview-body");
  if (!units) {
    body.append(element("p", { class: "notice" }, "No unit is there yet: the atlas has no finished units. Write the page again later."));
    return;
  }
  const measured = layers.some((layer) => Object.keys(layer.verdicts).some(Boolean));
  body.append(...[
    introduction(units, layers.length),
    element("h2", {}, measured ? "What became of the units, layer by layer" : "Layers"),
    measured ? null : element("p", { class: "notice" }, "No fates were measured: it is not known which features survived the merge. Images and activations are there."),
    measured ? legend(layers) : null,
    layerTable(layers, measured),
  ].filter(Boolean));
  if (measured) {
    const plot = element("section", { "aria-labelledby": "scatter-title" });
    body.append(countTable(layers), element("div", { class: "columns wide" }, plot, fateGlossary(layers)));
    await addScatter(plot);
  }
}

function introduction(units, layers) {
  const { subjects } = featviz.summary;
  return element("div", { class: "prose" },
    element("p", {},
      `Each panel of this page shows one unit (one channel of a layer) in ${subjects.length === 1 ? "one network" : `${subjects.length} networks`}: ${subjects.join(", ")}. `
      + "An image was changed step by step until the unit's activation was high, from the same random start in every network; "
      + "where the images differ, the networks differ."),
    element("p", {},
      `${plural(units, "unit")} in ${plural(layers, "layer")}. `,
      element("a", { href: addressOf(layerRoute(featviz.summary.layers.find((layer) => layer.units).name)) }, "Look at the first layer"),
      " or ",
      element("a", { href: "#all=yes" }, "at all units"), ".",
    ));
}

// All verdicts that occur, in order; "" for units without one.
function verdictsOf(layers) {
  const names = featviz.summary.verdicts.map((known) => known.name);
  return layers.some((layer) => layer.verdicts[NOT_MEASURED]) ? [...names, NOT_MEASURED] : names;
}

const countOf = (layers, verdict) => layers.reduce((sum, layer) => sum + (layer.verdicts[verdict] ?? 0), 0);

function legend(layers) {
  return element("ul", { class: "legend", "aria-label": "Units by fate in all layers" },
    verdictsOf(layers).map((verdict) => {
      const count = countOf(layers, verdict);
      const route = new URLSearchParams({ all: "yes", fate: fateName(verdict) });
      return element("li", {}, element("a", { href: addressOf(route) }, swatch(verdict), fateName(verdict), " ",
        element("b", {}, count.toLocaleString("en"))));
    }));
}

function layerTable(layers, measured) {
  const head = ["Layer", "Units", ...(measured ? ["Fates", "mean c", "mean f"] : [])];
  return element("div", { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Layers" },
    element("table", { class: "layers" },
      element("caption", { class: "hidden" }, "Units of each layer by fate"),
      element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, layers.map((layer) => element("tr", {},
        element("th", { scope: "row" }, element("a", { href: addressOf(layerRoute(layer.name)) }, layer.name)),
        element("td", { class: "numeric" }, layer.units === layer.width ? String(layer.units) : `${layer.units} of ${layer.width}`),
        measured ? element("td", { class: "bar-cell" }, fateBar(layer)) : null,
        measured ? element("td", { class: "numeric mean" }, correlation(layer.agreement, "\u2013")) : null,
        measured ? element("td", { class: "numeric mean" }, correlation(layer.fidelity, "\u2013")) : null,
      )))));
}

function fateBar(layer) {
  if (!layer.units) return element("span", { class: "missing" }, "none of its units is there yet");
  const parts = verdictsOf([layer]).filter((verdict) => layer.verdicts[verdict]);
  return element("div", { class: "bar" }, parts.map((verdict) => {
    const count = layer.verdicts[verdict];
    const route = layerRoute(layer.name);
    route.set("fate", fateName(verdict));
    const words = `${count} ${fateName(verdict)}`;
    const share = count / Math.max(layer.width, layer.units);
    return element("a", {
      href: addressOf(route), tabindex: "-1", title: words, "aria-label": words, "data-fate": fateName(verdict),
      "--fate": fateColor(verdict), "--share": `${100 * share}%`,
    }, element("span", { "aria-hidden": "true" }, share > 0.035 ? String(count) : ""));
  }));
}

function countTable(layers) {
  const verdicts = verdictsOf(layers);
  return element("details", {},
    element("summary", {}, "The counts as a table"),
    element("div", { class: "scrolled", tabindex: "0", role: "region", "aria-label": "Counts" },
      element("table", {},
        element("caption", { class: "hidden" }, "Units of each layer by fate, in numbers"),
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Layer"),
          verdicts.map((verdict) => element("th", { scope: "col", class: "numeric" }, fateName(verdict))),
          element("th", { scope: "col", class: "numeric" }, "not there yet"))),
        element("tbody", {}, layers.map((layer) => element("tr", {}, element("th", { scope: "row" }, layer.name),
          verdicts.map((verdict) => element("td", { class: "numeric" }, String(layer.verdicts[verdict] ?? 0))),
          element("td", { class: "numeric" }, String(Math.max(0, layer.width - layer.units)))))))));
}

function fateGlossary(layers) {
  return element("section", { "aria-labelledby": "words-title" },
    element("h2", { id: "words-title" }, "What the words mean"),
    element("p", {}, element("b", {}, "Agreement c"), " is the correlation of the parents' units over natural images: do the parents have the same feature? "
      + "1 is yes, 0 is no. ", element("b", {}, "Fidelity f"), " is the correlation of the merged unit with the mean of its parents' units: "
      + "did averaging the weights average the feature? A unit's \u201crow\u201d is the set of units that were matched with one another and averaged."),
    element("dl", { class: "glossary" }, verdictsOf(layers).map((verdict) =>
      element("div", {}, element("dt", {}, swatch(verdict), fateName(verdict)), element("dd", {}, fateWords(verdict))))));
}
