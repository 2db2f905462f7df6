// Figures for a paper: the panels that are shown, with captions as text, as SVG, as PNG, or on paper (print to PDF).
// Images are data URLs, which an SVG may hold and whose pixels a page from disk may read.

const MOST_IN_FIGURE = 240;
const FIGURE_WIDTH = 760;
const FIGURE_PAGE = 1060;  // height of a printed page at that width
const FONT = "Helvetica, Arial, sans-serif";
const FIGURE_COLORS = { dead: "#000000", undecided: "#999999", "": "#dddddd" };

function figureButtons(view, what) {
  const note = element("span", { class: "note" });
  const tell = (text) => { note.textContent = text; say(text); };
  const button = (id, words, work) => element("button", {
    type: "button", id, onclick: async () => {
      const asked = what();
      if (!asked) return;
      tell("Making the figure \u2026");
      try {
        await work(asked);
        tell(asked.items.length > MOST_IN_FIGURE ? `The figure holds the first ${MOST_IN_FIGURE} of ${asked.items.length.toLocaleString("en")} panels.` : "The figure is ready.");
      } catch (error) {
        tell(error.message);
      }
    },
  }, words);
  return element("span", { class: "buttons", role: "group", "aria-label": `Figure of these panels, at most ${MOST_IN_FIGURE}` },
    button(`${view}-svg`, "Save as SVG", saveSvg), button(`${view}-png`, "Save as PNG", savePng), button(`${view}-print`, "Print or PDF", printFigure), note);
}

async function saveSvg(asked) {
  const [svg] = await figurePages(asked, Infinity);
  download(new Blob([serialized(svg)], { type: "image/svg+xml" }), `${fileName(asked)}.svg`);
}

async function savePng(asked) {
  const [svg] = await figurePages(asked, Infinity);
  const [width, height] = [Number(svg.getAttribute("width")), Number(svg.getAttribute("height"))];
  const scale = Math.min(3, 16000 / height);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(serialized(svg))}`;
  await image.decode();
  const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done));
  if (!blob) throw new Error("The browser cannot make a PNG of this size: save as SVG.");
  download(blob, `${fileName(asked)}.png`);
}

async function printFigure(asked) {
  byId("figure").replaceChildren(...await figurePages(asked, FIGURE_PAGE));
  await Promise.all([...byId("figure").querySelectorAll("image")].map((image) => {
    const made = new Image();
    made.src = image.getAttribute("href");
    return made.decode().catch(() => null);
  }));
  document.documentElement.classList.add("printing");
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    byId("figure").replaceChildren();
  }, { once: true });
  window.print();
}

function serialized(svg) {
  return new XMLSerializer().serializeToString(svg);
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// Letters, digits, dots, dashes: whatever a layer is called, it is a plain name of a file.
function fileName(asked) {
  const label = asked.large ? labelOf(asked.items[0]) : asked.title;
  return label.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "").slice(0, 60) || "figure";
}

// SVGs of at most `tallest` pixels each.
async function figurePages({ items, title, large }, tallest) {
  const { subjects } = featviz.summary;
  const chosen = items.slice(0, MOST_IN_FIGURE);
  const across = Math.min(subjects.length, large ? 4 : 8);
  const lines = Math.ceil(subjects.length / across);
  const cell = large ? Math.min(180, Math.floor(FIGURE_WIDTH / across) - 6) : Math.max(40, Math.min(72, Math.floor(FIGURE_WIDTH / across) - 6));
  const panelWidth = across * (cell + 4);
  const columns = large ? 1 : Math.max(1, Math.floor((FIGURE_WIDTH + 20) / (panelWidth + 20)));
  const ratio = Math.max(...chosen.map((item) => layerOf(item).size[0] / layerOf(item).size[1]));
  const imageHeight = Math.round(cell * ratio);
  const panelHeight = 32 + lines * (imageHeight + 28);
  const perPage = Math.max(1, Math.floor((tallest - 60) / (panelHeight + 14))) * columns;
  const pages = [];
  for (let start = 0; start < chosen.length; start += perPage) {
    const part = chosen.slice(start, start + perPage);
    const height = 40 + Math.ceil(part.length / columns) * (panelHeight + 14);
    const svg = drawn("svg", { xmlns: SVG, width: FIGURE_WIDTH, height, viewBox: `0 0 ${FIGURE_WIDTH} ${height}`, "font-family": FONT },
      drawn("rect", { width: FIGURE_WIDTH, height, fill: "#ffffff" }),
      svgText(0, 18, large ? labelOf(chosen[0]) : title, { "font-size": 15, "font-weight": "bold" }));
    for (const [n, item] of part.entries()) {
      const [x, y] = [(n % columns) * (panelWidth + 20), 34 + Math.floor(n / columns) * (panelHeight + 14)];
      svg.append(await figurePanel(item, x, y, { cell, imageHeight, across, panelWidth, layer: !large && new Set(chosen.map((one) => one.layer)).size > 1 }));
    }
    pages.push(svg);
  }
  return pages;
}

async function figurePanel(item, x, y, { cell, imageHeight, across, panelWidth, layer }) {
  const { images } = await detailsOf(item);
  if (!images) throw new Error(`The images of ${labelOf(item)} cannot be read, so there is no figure.`);
  const verdict = verdictOf(item);
  const panel = drawn("g", { transform: `translate(${x} ${y})` });
  const c = correlation(valueOf(item, "agreement"), "\u2013");
  const f = correlation(valueOf(item, "fidelity"), "\u2013");
  panel.append(svgText(0, 9, layer ? `${labelOf(item)} (${indices(item)})` : indices(item), { "font-size": 10, "font-weight": "bold" }, panelWidth));
  if (verdict) {
    panel.append(drawn("rect", { x: 0, y: 14, width: 8, height: 8, fill: FIGURE_COLORS[verdict] ?? fateColor(verdict) }),
      svgText(12, 22, `${fateText(item)}, c ${c}, f ${f}`, { "font-size": 10 }, panelWidth - 12));
  }
  featviz.summary.subjects.forEach((name, n) => {
    const [left, top] = [(n % across) * (cell + 4), 30 + Math.floor(n / across) * (imageHeight + 28)];
    const own = ownUnit(item, n);
    panel.append(svgText(left + cell / 2, top + 9, name, { "font-size": 9, "text-anchor": "middle" }, cell));
    if (own === null) panel.append(svgText(left + cell / 2, top + imageHeight / 2, "no such unit", { "font-size": 8, "text-anchor": "middle" }));
    else panel.append(drawn("image", { href: images[n], x: left, y: top + 12, width: cell, height: imageHeight }));
    const words = isDead(item, n) ? "dead" : number(valueOf(item, `activation.${n}`), "");
    panel.append(svgText(left + cell / 2, top + imageHeight + 21, own === null ? "" : words, { "font-size": 8, "text-anchor": "middle", fill: "#555555" }));
  });
  return panel;
}

// Text of at most `width` pixels, by the mean width of a letter.
function svgText(x, y, words, attributes, width = Infinity) {
  const most = Math.max(4, Math.floor(width / (0.54 * attributes["font-size"])));
  const fitting = words.length > most ? `${words.slice(0, most - 1)}\u2026` : words;
  return drawn("text", { x, y, fill: "#000000", ...attributes }, fitting);
}
