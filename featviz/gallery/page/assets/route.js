// The address of a view: the parameters behind "#".
//
//   #                                   overview
//   #layer=layer3.1.bn1&sort=-score     units of a layer; also fate=, dead=, min.score=, max.score=
//   #all=yes   #search=B%3A203          units of all layers
//   ...&unit=layer3.1.bn1%3A17          one unit, among the units that the other parameters give; alone: among its layer's

function currentRoute() {
  return new URLSearchParams(location.hash.slice(1));
}

function addressOf(route) {
  return `#${route}`;
}

function go(route, instead = false) {
  const address = addressOf(route);
  if (instead) location.replace(address);
  else location.hash = address;
}

function layerRoute(name) {
  return new URLSearchParams({ layer: name });
}

function withUnit(route, item) {
  const made = new URLSearchParams(route);
  made.set("unit", labelOf(item));
  return made;
}

function withoutUnit(route) {
  const made = new URLSearchParams(route);
  const unit = made.get("unit");
  made.delete("unit");
  if (!isList(made) && unit) made.set("layer", unit.slice(0, unit.lastIndexOf(":")));
  return made;
}

function isList(route) {
  return route.has("layer") || route.has("all") || route.has("search");
}
