// The panels of some units. Only those near the window are in the document: `Panels` puts them in and takes them out.

const SIZES = { small: 64, medium: 96, large: 144 };
const GAP = 12;
const PADDING = 10;
const CELL_GAP = 6;
const LEAST_CELL = 44;
const MOST_GROWTH = 1.35;  // of images, to fill the width
const LINE = 20;  // pixels of a line of text in a panel
const MOST_PIXELS = 15e6;  // of a document's height, which browsers limit

class Panels {
  constructor(section, items, route) {
    this.items = items;
    this.route = route;
    this.severalLayers = !route.has("layer");
    this.list = element("ul", { class: "panels", role: "list", "aria-labelledby": "grid-title" });
    this.note = element("p", { class: "note", hidden: true });
    this.shown = new Map();  // position -> element
    this.current = 0;  // position of the panel that Tab reaches
    this.images = new ViewLoader((name) => this.arrived(name));
    section.append(this.list, this.note);
    this.onScroll = () => this.later();
    window.addEventListener("scroll", this.onScroll, { passive: true });
    this.observer = new ResizeObserver(() => this.layOut());
    this.observer.observe(section);
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focusin", (event) => this.focused(event));
  }

  remove() {
    window.removeEventListener("scroll", this.onScroll);
    this.observer.disconnect();
    this.list.remove();
  }

  // Measures of the grid for the width that there is; draws it anew where they changed.
  layOut(anew = false) {
    const width = this.list.clientWidth;
    if (!width) return;
    const { subjects, layers } = featviz.summary;
    const used = [...new Set(this.items.slice(0, 5000).map((item) => item.layer))].map((n) => layers[n]);
    const tallest = Math.max(...used.map((layer) => (layer.size ? layer.size[0] / layer.size[1] : 1)));
    const inner = width - 2 * PADDING - 2;
    let cell = SIZES[remembered("size") ?? "medium"] ?? SIZES.medium;
    let across = subjects.length;
    if (across * (cell + CELL_GAP) - CELL_GAP > inner) {
      cell = Math.max(LEAST_CELL, Math.floor((inner + CELL_GAP) / across) - CELL_GAP);
      across = Math.max(1, Math.min(across, Math.floor((inner + CELL_GAP) / (cell + CELL_GAP))));
    }
    const exemplars = remembered("exemplars") === "yes" && used.some((layer) => layer.exemplars);
    let panelWidth = Math.max(across * (cell + CELL_GAP) - CELL_GAP, Math.min(inner, 190)) + 2 * PADDING + 2;
    const columns = Math.max(1, Math.floor((width + GAP) / (panelWidth + GAP)));
    const fitting = Math.floor((Math.floor((width + GAP) / columns) - GAP - 2 * PADDING - 2 + CELL_GAP) / across) - CELL_GAP;
    cell = Math.max(cell, Math.min(fitting, Math.floor(cell * MOST_GROWTH)));
    panelWidth = Math.max(panelWidth, across * (cell + CELL_GAP) - CELL_GAP + 2 * PADDING + 2);
    const lines = Math.ceil(subjects.length / across);
    const imageHeight = Math.round(cell * Math.min(3, tallest));
    const strip = exemplars ? Math.floor((cell - 2) / 2) * 2 + 6 : 0;
    const height = 2 * PADDING + 2 + LINE * (this.severalLayers ? 3 : 2) + 6 + lines * (imageHeight + strip + 2 * LINE - 4);
    const measures = [cell, across, panelWidth, columns, imageHeight, height, exemplars];
    if (!anew && String(measures) === String(this.measures)) return this.update();
    const first = this.measures ? this.topmost() : null;
    this.measures = measures;
    Object.assign(this, { cell, panelWidth, columns, height, exemplars });
    const most = Math.max(1, Math.floor(MOST_PIXELS / (height + GAP))) * columns;
    this.count = Math.min(this.items.length, most);
    this.note.hidden = this.count === this.items.length;
    this.note.textContent = `These are the first ${plural(this.count, "unit")}. Sort or filter to see others.`;
    this.list.style.setProperty("height", `${Math.ceil(this.count / columns) * (height + GAP)}px`);
    for (const [name, value] of [["--cell", cell], ["--image-height", imageHeight], ["--panel-width", panelWidth], ["--panel-height", height]]) {
      this.list.style.setProperty(name, `${value}px`);
    }
    this.list.style.setProperty("--across", across);
    for (const made of this.shown.values()) made.remove();
    this.shown.clear();
    if (first) window.scrollTo(0, this.top() + Math.floor(first / columns) * (height + GAP));
    this.update();
  }

  top() {
    return this.list.getBoundingClientRect().top + window.scrollY;
  }

  topmost() {
    const above = window.scrollY - this.top();
    return above > 0 ? Math.floor(above / (this.height + GAP)) * this.columns : null;
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.update();
    });
  }

  update() {
    const bounds = this.list.getBoundingClientRect();
    if (!this.columns || !bounds.width) return;
    const row = this.height + GAP;
    const spare = Math.round(window.innerHeight * 0.6);
    const first = Math.max(0, Math.floor((-bounds.top - spare) / row)) * this.columns;
    const last = Math.min(this.count, Math.ceil((window.innerHeight - bounds.top + spare) / row) * this.columns);
    for (const [position, made] of this.shown) {
      if ((position < first || position >= last) && !made.contains(document.activeElement)) {
        made.remove();
        this.shown.delete(position);
      }
    }
    const added = document.createDocumentFragment();
    for (let position = first; position < last; position += 1) {
      if (!this.shown.has(position)) added.append(this.panel(position));
    }
    this.list.append(added);
    clearTimeout(this.timer);
    // Files are asked for when the scrolling rests: what rushes by is not read.
    this.timer = setTimeout(() => this.loadImages(first, last), performance.now() - (this.updated ?? 0) < 120 ? 90 : 0);
    this.updated = performance.now();
  }

  loadImages(first, last) {
    const names = [];
    const middle = [...this.shown.keys()].filter((position) => position >= first && position < last).sort((a, b) => a - b);
    for (const position of middle) {
      names.push(chunkOf("images", this.items[position])[0]);
      if (this.exemplars && layerOf(this.items[position]).exemplars) names.push(chunkOf("exemplars", this.items[position])[0]);
    }
    this.images.want(names);
    for (const position of middle) this.fill(position);
  }

  arrived(name) {
    if (!this.pending) {
      this.pending = new Set();
      requestAnimationFrame(() => {
        const names = this.pending;
        this.pending = null;
        for (const position of this.shown.keys()) {
          if (names.has(chunkOf("images", this.items[position])[0]) || names.has(chunkOf("exemplars", this.items[position])[0])) this.fill(position);
        }
      });
    }
    this.pending.add(name);
  }

  fill(position) {
    const item = this.items[position];
    const made = this.shown.get(position);
    for (const [kind, selector] of [["images", ".image"], ["exemplars", ".strip"]]) {
      if (kind === "exemplars" && !this.exemplars) continue;
      const [name, at] = chunkOf(kind, item);
      const boxes = made.querySelectorAll(`${selector}:not(.filled)`);
      if (this.images.failed.has(name) && kind === "images") boxes.forEach((box) => box.replaceChildren(element("span", { class: "absent" }, "cannot be read")));
      const value = this.images.values.get(name);
      if (!value) continue;
      for (const box of boxes) {
        const subject = Number(box.dataset.subject);
        box.classList.add("filled");
        if (kind === "images") box.append(picture(value[at][subject], `${labelOf(item)} in ${featviz.summary.subjects[subject]}`, () => this.cell));
        else box.append(...stripOf(value, at, item, subject, 4, () => this.cell / 2));
      }
    }
  }

  panel(position) {
    const item = this.items[position];
    const { subjects } = featviz.summary;
    const [column, row] = [position % this.columns, Math.floor(position / this.columns)];
    const score = valueOf(item, "score");
    const known = valueOf(item, "agreement") !== null || valueOf(item, "fidelity") !== null;
    const made = element("li", { class: "panel", "aria-setsize": this.count, "aria-posinset": position + 1 },
      element("a", { href: addressOf(withUnit(this.route, item)), tabindex: position === this.current ? "0" : "-1", "data-position": position },
        this.severalLayers ? element("span", { class: "line label" }, labelOf(item)) : null,
        element("span", { class: "line" }, element("b", {}, indices(item)), score === null ? null : element("span", { class: "figures" }, `score ${correlation(score)}`)),
        element("span", { class: "line fate" }, swatch(verdictOf(item)), element("span", { class: "verdict" }, verdictOf(item) ? fateText(item) : "fate not measured"),
          known ? element("span", { class: "figures" }, `c ${correlation(valueOf(item, "agreement"), "\u2013")}  f ${correlation(valueOf(item, "fidelity"), "\u2013")}`) : null),
        element("span", { class: "cells" }, subjects.map((name, n) => this.subjectCell(item, name, n)))));
    made.style.setProperty("left", `${column * (this.panelWidth + GAP)}px`);
    made.style.setProperty("top", `${row * (this.height + GAP)}px`);
    this.shown.set(position, made);
    return made;
  }

  subjectCell(item, name, n) {
    const own = ownUnit(item, n);
    const activation = isDead(item, n) ? "dead" : number(valueOf(item, `activation.${n}`), "no activation");
    const other = own !== null && own !== unitOf(item) ? `${name}:${own}` : name;
    return element("span", { class: "cell" },
      element("span", { class: "name", title: other }, other),
      own === null ? element("span", { class: "image filled" }, element("span", { class: "absent" }, "no such unit"))
        : element("span", { class: "image", "data-subject": n }),
      element("span", { class: "activation" }, own === null ? "\u2013" : activation),
      this.exemplars ? element("span", { class: "strip", "data-subject": n }) : null);
  }

  focused(event) {
    const link = event.target.closest("a[data-position]");
    if (!link) return;
    this.list.querySelector('a[tabindex="0"]')?.setAttribute("tabindex", "-1");
    this.current = Number(link.dataset.position);
    link.setAttribute("tabindex", "0");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const to = {
      ArrowLeft: this.current - 1, ArrowRight: this.current + 1, ArrowUp: this.current - this.columns,
      ArrowDown: this.current + this.columns, Home: 0, End: this.count - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < this.count) this.focus(to);
  }

  focus(position) {
    const top = this.top() + Math.floor(position / this.columns) * (this.height + GAP);
    const bar = byId("bar").offsetHeight + GAP;
    if (top - bar < window.scrollY) window.scrollTo(0, top - bar);
    else if (top + this.height + GAP > window.scrollY + window.innerHeight) window.scrollTo(0, top + this.height + GAP - window.innerHeight);
    this.current = position;
    this.update();
    this.shown.get(position)?.firstChild.focus({ preventScroll: true });
  }

  // Scroll to a unit and focus it.
  reveal(label) {
    const position = this.items.findIndex((item) => labelOf(item) === label);
    if (position >= 0 && position < this.count) this.focus(position);
  }
}

// Up to `most` natural images of a unit in a subject.
function stripOf(stored, at, item, subject, most, shown) {
  const name = featviz.summary.subjects[subject];
  const row = stored.subjects.indexOf(name);
  if (row < 0) return [];
  return stored.images[at][row].slice(0, most).map((url, k) => picture(url, `natural image ${k + 1} for ${labelOf(item)} in ${name}`, shown));
}
