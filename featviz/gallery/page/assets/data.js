// Data files: each calls featviz.receive(name, value) when its <script> element has loaded.

const featviz = { summary: null, received: new Map() };
const MOST_KEPT = 160;  // files of images, exemplars and details that stay in memory
const AT_ONCE = 4;
const loading = new Map();  // name -> promise of the value, the least recently used first

featviz.receive = (name, value) => featviz.received.set(name, value);

function load(name) {
  let promise = loading.get(name);
  loading.delete(name);
  promise ??= loadScript(name);
  loading.set(name, promise);
  forgetOld();
  return promise;
}

function loadScript(name) {
  return new Promise((resolve, reject) => {
    const failed = () => {
      loading.delete(name);
      reject(new Error(`The file ${name}.js of this page cannot be read. Reload the page if it was written anew.`));
    };
    const script = element("script", { src: `${document.documentElement.dataset.folder}/${name}.js` });
    script.addEventListener("error", () => { script.remove(); failed(); });
    script.addEventListener("load", () => {
      script.remove();
      if (!featviz.received.has(name)) return failed();
      const value = featviz.received.get(name);
      featviz.received.delete(name);
      resolve(value);
    });
    document.head.append(script);
  });
}

function forgetOld() {
  const old = [...loading.keys()].filter((name) => /^(images|exemplars|details)\//.test(name));
  for (const name of old.slice(0, Math.max(0, old.length - MOST_KEPT))) loading.delete(name);
}

// Loads files for what is in view: those asked for last, a few at once. Files that nobody wants any more are not begun.
class ViewLoader {
  constructor(arrived) {
    this.arrived = arrived;
    this.values = new Map();
    this.failed = new Set();
    this.wanted = [];
    this.running = new Set();
  }

  // Values of files that are not wanted are let go; `load` keeps the last ones.
  want(names) {
    this.wanted = [...new Set(names)];
    const still = new Set(this.wanted);
    for (const name of this.values.keys()) if (!still.has(name)) this.values.delete(name);
    this.next();
  }

  next() {
    for (const name of this.wanted) {
      if (this.running.size >= AT_ONCE) return;
      if (this.values.has(name) || this.running.has(name) || this.failed.has(name)) continue;
      this.running.add(name);
      load(name).then(
        (value) => { if (this.wanted.includes(name)) this.values.set(name, value); },
        () => this.failed.add(name),
      ).finally(() => {
        this.running.delete(name);
        this.arrived(name);
        this.next();
      });
    }
  }
}

// The figures of a layer's units, once loaded: {count, starts, unit, b, ...}.
async function loadLayer(index) {
  const layer = featviz.summary.layers[index];
  layer.columns ??= await load(`units/${index}`);
  return layer.columns;
}

// [name of the file, position in it] of a unit.
function chunkOf(kind, item) {
  const { starts } = featviz.summary.layers[item.layer].columns;
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= item.at) low = middle;
    else high = middle - 1;
  }
  return [`${kind}/${item.layer}/${low}`, item.at - starts[low]];
}
