// Starts the page: the summary is loaded, and the view follows the address.

const themeChanges = [];
const onTheme = (call) => themeChanges.push(call);
let latest = 0;
let overviewTop = 0;  // where the overview was left

// Choices that outlast a visit; a browser may refuse to keep them.
function remember(key, value) {
  try {
    localStorage.setItem(`featviz.${key}`, value);
  } catch { /* not kept */ }
  remember.here = { ...remember.here, [key]: value };
}

function remembered(key) {
  if (remember.here && key in remember.here) return remember.here[key];
  try {
    return localStorage.getItem(`featviz.${key}`);
  } catch {
    return null;
  }
}

async function show() {
  latest += 1;
  const own = latest;
  const fresh = () => own === latest;
  const route = currentRoute();
  byId("main").querySelector(":scope > .notice")?.remove();
  if (!byId("overview").hidden) overviewTop = window.scrollY;
  byId("layer-choice").value = route.get("layer") ?? (route.has("unit") && !isList(route) ? withoutUnit(route).get("layer") : route.has("all") ? "*" : "");
  if (document.activeElement !== byId("search")) byId("search").value = route.get("search") ?? "";
  try {
    if (route.has("unit")) return await showUnit(route, fresh);
    if (isList(route)) return await showGrid(route, fresh);
    byId("grid").hidden = byId("unit").hidden = true;
    lastUnit = null;
    await showOverview();
    if (fresh()) window.scrollTo(0, overviewTop);
  } catch (error) {
    if (fresh()) problem(error);
  }
}

// Says in words what cannot be shown, in place of it.
function problem(error) {
  const text = error.message || String(error);
  byId("main").querySelector(":scope > .notice")?.remove();
  for (const id of ["overview", "grid", "unit"]) byId(id).hidden = true;
  byId("main").prepend(element("p", { class: "notice", role: "alert" }, text));
}

async function search(text) {
  const route = new URLSearchParams({ search: text });
  const meant = parseSearch(text);
  if (meant.layers.length === 1 && featviz.summary.layers[meant.layers[0]].name === text) return go(layerRoute(text));
  const found = await unitsOf(route);
  if (found.length === 1) return go(withUnit(new URLSearchParams(), found[0]));
  return go(route);
}

function setUpTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = remembered("theme");
    const isDark = chosen ? chosen === "dark" : dark.matches;
    if (chosen) document.documentElement.dataset.theme = chosen;
    byId("theme").setAttribute("aria-pressed", String(isDark));
    themeChanges.forEach((call) => call());
  };
  byId("theme").addEventListener("click", () => {
    remember("theme", byId("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

async function start() {
  setUpTheme();
  history.scrollRestoration = "manual";
  byId("skip").addEventListener("click", () => byId("main").focus());
  try {
    featviz.summary = await load("summary");
  } catch (error) {
    problem(error);
    return;
  }
  const { layers } = featviz.summary;
  byId("layer-choice").append(element("option", { value: "*" }, "All layers"),
    ...layers.map((layer) => element("option", { value: layer.name }, `${layer.name} (${layer.units === layer.width ? layer.units : `${layer.units} of ${layer.width}`})`)));
  byId("layer-choice").addEventListener("change", ({ target }) => {
    if (target.value === "*") location.hash = "#all=yes";
    else if (target.value) go(layerRoute(target.value));
    else location.hash = "";
  });
  byId("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("search").value.trim();
    if (text) search(text).catch(problem);
  });
  window.addEventListener("hashchange", show);
  await show();
  document.documentElement.dataset.ready = "yes";
}

start();
