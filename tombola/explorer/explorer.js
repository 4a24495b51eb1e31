"use strict";
// The page: what is chosen (`view`) -> what is decoded of it -> what is drawn. Nothing is loaded from anywhere.

const page = JSON.parse(document.getElementById("record").textContent);
const at = (id) => document.getElementById(id);
const view = { arm: "", replicate: 0, place: 0, layer: -1, unit: -1 };
const MOST_LINES = 3000; // drawn at once
const MOST_ROWS = 1000; // of a table
const still = matchMedia("(prefers-reduced-motion: reduce)");

// ---------------------------------------------------------------- binary parts

const parts = new Map();

async function part(number) {
  if (!parts.has(number)) {
    const bytes = Uint8Array.from(atob(at(`part-${number}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    parts.set(number, new Response(stream).arrayBuffer().then((buffer) => new Uint8Array(buffer)));
  }
  return parts.get(number);
}

const windowOf = (layer) => layer.window.reduce((product, side) => product * side, 1);
const weightsOf = (layer) => layer.outputs * layer.inputs * windowOf(layer);

/** Flags of one layer at a place among the levels of a series: 1 is kept. */
function flags(code, bytes, place, count) {
  const kept = new Uint8Array(count);
  if (code === "lives") {
    for (let i = 0; i < count; i++) kept[i] = bytes[i] > place ? 1 : 0;
    return kept;
  }
  const row = Math.ceil(count / 8);
  const bits = bytes.slice(0, row);
  for (let level = 1; level <= place; level++) for (let i = 0; i < row; i++) bits[i] ^= bytes[level * row + i];
  for (let i = 0; i < count; i++) kept[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  return kept;
}

const networks = new Map(); // the last that were looked at, and their neighbours
const MOST_NETWORKS = Math.max(4, Math.floor(2e7 / page.layers.reduce((sum, layer) => sum + weightsOf(layer), 0)));

async function network(series, place) {
  const name = `${page.series.indexOf(series)}/${place}`;
  if (!networks.has(name)) {
    if (networks.size >= MOST_NETWORKS) networks.delete(networks.keys().next().value);
    networks.set(name, decodedNetwork(series, place));
  }
  return networks.get(name);
}

async function decodedNetwork(series, place) {
  const level = series.levels[place];
  const masks = await Promise.all(series.masks.map(([, number]) => part(number)));
  const kept = page.layers.map((layer, k) => flags(series.masks[k][0], masks[k], place, weightsOf(layer)));
  const trained = level.trained && living(kept, await part(level.trained[0]));
  const start = level.start && whole(new Int8Array((await part(level.start[0])).buffer));
  const begins = !trained && series.levels.every((each) => !each.trained); // as in a ticket's file, which nothing has trained
  return {
    level,
    kept,
    drawn: trained || (begins && start && start.map((values, k) => values.map((value, i) => (kept[k][i] ? value : 0)))),
    drawnUnit: (begins ? level.start : level.trained)?.[1],
    begins: begins && start,
    trained,
    trainedUnit: level.trained && level.trained[1],
    start,
    startUnit: level.start && level.start[1],
    exciting: level.exciting === null ? null : excitement(await part(level.exciting)),
    reading: level.reading === null ? new Map() : reading(await part(level.reading[0]), level.reading[1]),
    counts: kept.map(degrees),
    ...onPaths(kept),
  };
}

/** Each layer's weights, pruned ones 0, from those that are kept. */
function living(kept, bytes) {
  const values = new Int8Array(bytes.buffer);
  let next = 0;
  return kept.map((flags) => {
    const found = new Int8Array(flags.length);
    for (let i = 0; i < flags.length; i++) if (flags[i]) found[i] = values[next++];
    return found;
  });
}

function whole(values) {
  let next = 0;
  return page.layers.map((layer) => values.subarray(next, (next += weightsOf(layer))));
}

function excitement(bytes) {
  const counts = page.excited.map((k) => page.layers[k].outputs * page.top);
  const all = counts.reduce((sum, count) => sum + count, 0);
  const spots = new Uint16Array(bytes.slice(all, 3 * all).buffer);
  const values = new Float32Array(bytes.slice(3 * all, 7 * all).buffer);
  const found = new Map();
  let next = 0;
  page.excited.forEach((k, n) => {
    const end = next + counts[n];
    found.set(k, { places: bytes.subarray(next, end), spots: spots.subarray(next, end), values: values.subarray(next, end) });
    next += counts[n];
  });
  return found;
}

/** The tokens that units read most, by layer. */
function reading(bytes, layers) {
  const top = Math.min(page.top, page.shape[1]);
  const counts = layers.map((k) => page.layers[k].outputs * top);
  const all = counts.reduce((sum, count) => sum + count, 0);
  const tokens = new Uint16Array(bytes.slice(0, 2 * all).buffer);
  const values = new Float32Array(bytes.slice(2 * all, 6 * all).buffer);
  let next = 0;
  const found = layers.map((k, n) => [k, { top, tokens: tokens.subarray(next, next + counts[n]), values: values.subarray(next, (next += counts[n])) }]);
  return new Map(found);
}

/** How many kept weights each unit of a layer has, and each of its inputs. */
function degrees(flags, k) {
  const layer = page.layers[k];
  const size = windowOf(layer);
  const into = new Uint32Array(layer.outputs);
  const from = new Uint32Array(layer.inputs * layer.groups);
  const each = layer.outputs / layer.groups;
  for (let o = 0, i = 0; o < layer.outputs; o++) {
    const first = Math.floor(o / each) * layer.inputs;
    for (let j = 0; j < layer.inputs; j++) {
      let sum = 0;
      for (let w = 0; w < size; w++) sum += flags[i++];
      into[o] += sum;
      from[first + j] += sum;
    }
  }
  return { into, from };
}

// ---------------------------------------------------------------- which units are linked

const isImage = page.shape.length === 3;
const isText = page.shape.length === 2;
const firstReadsImage = isImage && page.layers[0].inputs === page.shape[0] * page.shape[1] * page.shape[2];

/** The layers in the drawing: all, or where they do not simply follow each other, one alone. */
const drawnLayers = () => (page.chained ? page.layers.map((_, k) => k) : [Math.max(0, view.layer)]);

/** How many inputs of layer k belong to one unit of the layer before; 0 where that is not what it reads. */
function spread(k) {
  if (!page.chained || k === 0 || k >= page.layers.length) return 0;
  const inputs = page.layers[k].inputs * page.layers[k].groups;
  return inputs % page.layers[k - 1].outputs === 0 ? inputs / page.layers[k - 1].outputs : 0;
}

/** Of each layer's units, whether a path of kept weights leads to them from an input, and from them to an output. */
function onPaths(kept) {
  const reached = page.layers.map((layer) => new Uint8Array(layer.outputs));
  const heard = page.layers.map((layer, k) => new Uint8Array(layer.outputs).fill(spread(k + 1) ? 0 : 1));
  page.layers.forEach((_, k) => {
    const share = spread(k);
    eachLink(kept[k], k, (o, j) => (reached[k][o] |= share ? reached[k - 1][Math.floor(j / share)] : 1));
  });
  for (let k = page.layers.length - 1; spread(k); k--) {
    const share = spread(k);
    eachLink(kept[k], k, (o, j) => (heard[k - 1][Math.floor(j / share)] |= heard[k][o]));
  }
  return { reached, heard };
}

/** Calls `act` with each output and input of layer k, counted over all groups, between which a weight is kept. */
function eachLink(flags, k, act) {
  const { outputs, inputs, groups } = page.layers[k];
  const size = windowOf(page.layers[k]);
  for (let o = 0, i = 0; o < outputs; o++) {
    const first = Math.floor(o / (outputs / groups)) * inputs;
    for (let j = 0; j < inputs; j++) {
      let any = 0;
      for (let w = 0; w < size; w++) any |= flags[i++];
      if (any) act(o, first + j);
    }
  }
}

/** The flat place of the weights of output o and input j, counted over all groups; -1 where there is none. */
function pair(layer, o, j) {
  const inside = j - Math.floor(o / (layer.outputs / layer.groups)) * layer.inputs;
  return inside < 0 || inside >= layer.inputs ? -1 : (o * layer.inputs + inside) * windowOf(layer);
}

/** What a unit reads, or what it feeds: [unit, sum of weights, kept weights], the largest first. */
function reads(net, k, o) {
  const layer = page.layers[k];
  const share = spread(k) || 1;
  const found = new Map();
  for (let j = 0; j < layer.inputs * layer.groups; j++) add(found, Math.floor(j / share), net, k, pair(layer, o, j));
  return sorted(found);
}

function feeds(net, k, unit) {
  const share = spread(k + 1);
  const found = new Map();
  if (!share) return [];
  const layer = page.layers[k + 1];
  for (let o = 0; o < layer.outputs; o++)
    for (let j = unit * share; j < (unit + 1) * share; j++) add(found, o, net, k + 1, pair(layer, o, j));
  return sorted(found);
}

function add(found, unit, net, k, place) {
  if (place < 0) return;
  const size = windowOf(page.layers[k]);
  for (let i = place; i < place + size; i++) {
    if (!net.kept[k][i]) continue;
    const entry = found.get(unit) || [unit, 0, 0, 0];
    const value = net.drawn ? net.drawn[k][i] * net.drawnUnit[k] : 0;
    entry[1] += value;
    entry[2] += 1;
    entry[3] += Math.abs(value);
    found.set(unit, entry);
  }
}

const sorted = (found) => [...found.values()].sort((a, b) => b[3] - a[3] || b[2] - a[2] || a[0] - b[0]);

/** Of layer k the pairs of units to draw: all, or the strongest, or where weights are not here some at random. */
function chosenPairs(net, k, room) {
  const layer = page.layers[k];
  const size = windowOf(layer);
  const count = layer.outputs * layer.inputs;
  const strength = new Uint16Array(count);
  const { kept, drawn } = net;
  let linked = 0;
  for (let p = 0, i = 0; p < count; p++) {
    let sum = 0;
    for (let w = 0; w < size; w++, i++) if (kept[k][i]) sum += drawn ? Math.abs(drawn[k][i]) || 1 : 1;
    strength[p] = Math.min(sum, 65535);
    if (sum) linked++;
  }
  if (linked <= room) return { linked, how: "all", pairs: indices(strength, () => true, linked) };
  if (!drawn) return { linked, how: "random", pairs: atRandom(indices(strength, () => true, linked), room, k) };
  const tally = new Uint32Array(65536);
  for (let p = 0; p < count; p++) tally[strength[p]]++;
  let least = 65535;
  for (let above = 0; above + tally[least] < room; least--) above += tally[least];
  const strong = indices(strength, (s) => s > least, room);
  const rest = indices(strength, (s) => s === least, room - strong.length);
  return { linked, how: "strongest", pairs: [...strong, ...rest] };
}

function indices(strength, wanted, most) {
  const found = [];
  for (let p = 0; p < strength.length && found.length < most; p++) if (strength[p] && wanted(strength[p])) found.push(p);
  return found;
}

function atRandom(all, count, seed) {
  let state = seed + 1;
  const next = () => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 4294967296);
  for (let n = 0; n < count; n++) {
    const other = n + Math.floor(next() * (all.length - n));
    [all[n], all[other]] = [all[other], all[n]];
  }
  return all.slice(0, count);
}

// ---------------------------------------------------------------- words and small parts

const whole0 = (value) => value.toLocaleString("en-US");
const written = {
  percent: (value) => `${(100 * value).toFixed(2)} %`,
  count: whole0,
  number: (value) => Number(value.toPrecision(4)).toString(),
};
const share = (density) => `${Number((100 * density).toPrecision(3))} %`;
const weight = (value) => (value < 0 ? "" : "+") + value.toPrecision(2);
const unitName = (k, unit) => `${page.layers[k].label}.${unit}`;

function inputName(k, j) {
  const share = spread(k);
  if (share) return unitName(k - 1, Math.floor(j / share)) + (share > 1 ? `, place ${j % share}` : "");
  if (k === 0 && firstReadsImage) {
    const [, height, width] = page.shape;
    const channel = Math.floor(j / (height * width));
    const name = `pixel row ${Math.floor((j % (height * width)) / width)}, column ${j % width}`;
    return page.shape[0] > 1 ? `${name}, channel ${channel}` : name;
  }
  return (k === 0 && page.inputs[j]) || `input ${j}`;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function table(caption, head, rows, here = -1) {
  const shown = rows.slice(0, MOST_ROWS);
  const more = rows.length > shown.length ? ` The first ${whole0(shown.length)} of ${whole0(rows.length)}.` : "";
  const body = shown.map((row, n) => {
    const [first, ...rest] = row;
    const line = make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell)));
    if (n === here) line.className = "here";
    return line;
  });
  return make(
    "table",
    {},
    make("caption", {}, caption + more),
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...body),
  );
}

const paint = () => {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
};
const rgb = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
const mixed = (from, to, part) => from.map((value, n) => value + (to[n] - value) * part);

/** A canvas of `width` x `height` cells; `cell(i)` is a signed strength in [-1, 1], or null for nothing there. */
function picture(width, height, cell, label) {
  const canvas = make("canvas", { role: "img", "aria-label": label, width, height });
  const colour = paint();
  const [plus, minus, none, gone] = ["plus", "minus", "paper", "gone"].map((name) => rgb(longHex(colour(name))));
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = cell(i);
    const mix = value === null ? gone : mixed(none, value < 0 ? minus : plus, Math.min(1, 0.15 + Math.abs(value)));
    data.data.set([...mix, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

const longHex = (colour) => (colour.length === 4 ? `#${[...colour.slice(1)].map((c) => c + c).join("")}` : colour);

// ---------------------------------------------------------------- drawings

/** Makes a canvas as wide as it is shown, in the screen's own dots; its context, in the page's units. */
function prepared(canvas, height) {
  const width = canvas.clientWidth;
  const dots = Math.min(2, devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * dots) || canvas.height !== Math.round(height * dots)) {
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(dots, 0, 0, dots, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Where the units of each column stand: first what the first layer reads, then each layer's units. */
function columns(width, height) {
  const drawn = drawnLayers();
  const first = page.layers[drawn[0]];
  const counts = [first.inputs * first.groups, ...drawn.map((k) => page.layers[k].outputs)];
  const top = 26;
  const tall = height - top - 12;
  return counts.map((count, column) => {
    const share = width / counts.length;
    const left = share * column;
    if (column === 0 && drawn[0] === 0 && firstReadsImage) return imageColumn(left, share, top, tall);
    const wide = share * (counts.length > 8 ? 0.5 : 0.34);
    const across = Math.max(1, Math.ceil(Math.sqrt((count * wide) / tall)));
    const step = Math.min(18, tall / Math.ceil(count / across), across > 1 ? wide / across : 18);
    const rows = Math.ceil(count / across);
    const x0 = left + (share - step * (across - 1)) / 2;
    const y0 = top + (tall - step * (rows - 1)) / 2;
    const radius = Math.max(0.8, Math.min(6, step * 0.4));
    return { count, radius, at: (unit) => [x0 + step * Math.floor(unit / rows), y0 + step * (unit % rows)] };
  });
}

function imageColumn(left, share, top, tall) {
  const [channels, high, wide] = page.shape;
  const step = Math.min((share * 0.9) / wide, tall / high);
  const x0 = left + (share - step * wide) / 2;
  const y0 = top + (tall - step * high) / 2;
  const at = (j) => [x0 + step * ((j % wide) + 0.5), y0 + step * (Math.floor((j % (high * wide)) / wide) + 0.5)];
  return { count: channels * high * wide, radius: step / 2, at, image: true, step };
}

let places = [];

function drawNetwork(net) {
  const { context, width, height } = prepared(at("network"), at("network").clientWidth < 500 ? 360 : 520);
  const colour = paint();
  places = columns(width, height);
  const told = [];
  const layerCount = drawnLayers().length;
  const room = Math.max(60, Math.floor(MOST_LINES / layerCount));
  context.lineWidth = 0.7;
  for (const k of drawnLayers()) {
    const { pairs, linked, how } = chosenPairs(net, k, room);
    if (linked) told.push({ layer: page.layers[k], drawn: pairs.length, linked, how });
    drawPairs(context, colour, net, k, pairs, layerCount > 8 ? 0.12 : 0.22);
  }
  if (view.layer >= 0) drawChosen(context, colour, net);
  drawUnits(context, colour, net);
  at("drawn").textContent = drawnSentence(told, net);
  at("network").setAttribute("aria-label", `The network, ${drawnLayers().length} of ${page.layers.length} layers drawn. ${drawnSentence(told, net)}`);
}

function drawPairs(context, colour, net, k, pairs, opacity) {
  const layer = page.layers[k];
  const size = windowOf(layer);
  for (const sign of [1, -1]) {
    context.strokeStyle = colour(net.drawn ? (sign > 0 ? "plus" : "minus") : "kept");
    context.globalAlpha = opacity;
    context.beginPath();
    for (const p of pairs) {
      let sum = 0;
      if (net.drawn) for (let i = p * size; i < (p + 1) * size; i++) sum += net.drawn[k][i];
      if ((sum < 0 ? -1 : 1) !== sign) continue;
      line(context, k, Math.floor(p / layer.inputs), p % layer.inputs);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

function line(context, k, o, inside) {
  const layer = page.layers[k];
  const j = Math.floor(o / (layer.outputs / layer.groups)) * layer.inputs + inside;
  const column = drawnLayers().indexOf(k);
  context.moveTo(...places[column].at(spread(k) ? Math.floor(j / spread(k)) : j));
  context.lineTo(...places[column + 1].at(o));
}

function drawChosen(context, colour, net) {
  context.lineWidth = 1.6;
  const draw = (k, o, from, sum) => {
    context.strokeStyle = colour(net.drawn ? (sum < 0 ? "minus" : "plus") : "kept");
    context.beginPath();
    const column = drawnLayers().indexOf(k);
    context.moveTo(...places[column].at(from));
    context.lineTo(...places[column + 1].at(o));
    context.stroke();
  };
  for (const [from, sum] of reads(net, view.layer, view.unit)) draw(view.layer, view.unit, from, sum);
  for (const [o, sum] of feeds(net, view.layer, view.unit)) draw(view.layer + 1, o, view.unit, sum);
  context.lineWidth = 0.7;
}

function drawUnits(context, colour, net) {
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  const drawn = drawnLayers();
  places.forEach((column, c) => {
    const read = c < drawn.length ? readBy(net, drawn[c], column.count) : null;
    const most = read ? Math.max(1, ...read) : 1;
    for (let unit = 0; unit < column.count; unit++) {
      const [x, y] = column.at(unit);
      if (column.image) {
        context.globalAlpha = read[unit] ? 0.15 + (0.85 * read[unit]) / most : 1;
        context.fillStyle = colour(read[unit] ? "kept" : "gone");
        context.fillRect(x - column.step / 2, y - column.step / 2, column.step * 0.94, column.step * 0.94);
        continue;
      }
      context.globalAlpha = 1;
      context.beginPath();
      context.arc(x, y, column.radius, 0, 7);
      const dead = c > 0 ? isDead(net, drawn[c - 1], unit) : read[unit] === 0;
      context.fillStyle = colour(dead ? "rule" : "kept");
      context.fill();
      if (c > 0 && drawn[c - 1] === view.layer && unit === view.unit) ring(context, colour, x, y, column.radius);
    }
    context.globalAlpha = 1;
    context.fillStyle = colour("soft");
    if (places.length <= 8) context.fillText(c ? page.layers[drawn[c - 1]].label : "input", column.at(0)[0] + middle(column), 14);
  });
}

const middle = (column) => (column.at(column.count - 1)[0] - column.at(0)[0]) / 2;

function ring(context, colour, x, y, radius) {
  context.strokeStyle = colour("mark");
  context.lineWidth = 3;
  context.beginPath();
  context.arc(x, y, radius + 4, 0, 7);
  context.stroke();
  context.lineWidth = 0.7;
}

/** How many kept weights read each unit of a column. */
function readBy(net, column, count) {
  const from = net.counts[column].from;
  if (from.length === count) return from;
  const counts = net.counts[column];
  if (!counts.read) {
    const share = spread(column);
    counts.read = new Uint32Array(count);
    if (share) from.forEach((value, j) => (counts.read[Math.floor(j / share)] += value));
  }
  return counts.read;
}

/** A unit without a path from an input, or to an output; where it is not known what reads it, one that reads nothing. */
const isDead = (net, k, unit) => !net.reached[k][unit] || !net.heard[k][unit];

/** Why it is, as a sentence, or nothing. */
function deathOf(net, k, unit, fed) {
  if (!isDead(net, k, unit)) return "";
  const always = "and it always gives the same";
  if (!net.counts[k].into[unit]) return ` It is dead: it reads nothing, ${always}.`;
  if (!net.reached[k][unit]) return ` It is dead: what it reads is dead, ${always}.`;
  return fed.length ? " It is dead: what it feeds reaches no output." : " It is dead: nothing reads it.";
}

function drawnSentence(told, net) {
  const words = { all: "all", strongest: "the largest", random: "drawn at random" };
  const named = told.slice(0, 6).map(({ layer, drawn, linked, how }) =>
    how === "all" ? `${layer.label}: all ${whole0(linked)}` : `${layer.label}: ${whole0(drawn)} of ${whole0(linked)}, ${words[how]}`,
  );
  const more = told.length > 6 ? `; and so on in ${told.length - 6} more layers` : "";
  const kind = page.layers.some((layer) => layer.window.length) ? "Lines are connections (of a convolution, whole kernels)" : "Lines are weights";
  const jump = page.chained ? "" : " One layer is drawn at a time, its inputs left of it: in this network layers do not simply follow each other.";
  const signs = net.drawn ? `${net.begins ? ", before training" : ""}, red above 0 and blue below` : " that are kept; the page does not have their values";
  return `${kind}${signs}. Drawn: ${named.join("; ")}${more}. Grey units are dead: ${page.chained ? "on no path from an input to an output" : "they read nothing"}.${jump}`;
}

// ---------------------------------------------------------------- the first layer's masks

const MOST_PICTURES = 400;
let before = null; // what the masks looked like, to fade from

function firstSize() {
  const layer = page.layers[0];
  if (firstReadsImage) return [page.shape[2], page.shape[1]];
  if (layer.window.length === 2) return [layer.window[1], layer.window[0]];
  return null;
}

function drawMasks(net) {
  const size = firstSize();
  const layer = page.layers[0];
  if (!size) {
    at("first-layer").hidden = true;
    return;
  }
  const units = Math.min(layer.outputs, MOST_PICTURES);
  const stamp = stamps(net, size, units);
  const { context, width } = prepared(at("masks"), stampHeight(size, units));
  const draw = (part) => {
    context.clearRect(0, 0, width, 9999);
    context.imageSmoothingEnabled = false;
    if (before && part < 1) context.drawImage(before, 0, 0, width, stampHeight(size, units));
    context.globalAlpha = part;
    context.drawImage(stamp, 0, 0, width, stampHeight(size, units));
    context.globalAlpha = 1;
    if (part >= 1) before = stamp;
  };
  morph(draw);
  const sees = firstReadsImage ? "the pixels that it reads" : `its kernel of ${layer.window.join(" x ")}`;
  const which = units < layer.outputs ? `the first ${units} of ${whole0(layer.outputs)} units` : `all ${whole0(units)} units`;
  at("masks-about").textContent = `For ${which} of ${layer.label}, ${sees}: ${net.drawn ? `red where the kept weight${net.begins ? ", before training," : ""} is above 0, blue where it is below` : "blue where a weight is kept"}, grey where it is pruned.`;
  const dead = net.counts[0].into.filter((count) => count === 0).length;
  at("masks").setAttribute("aria-label", `Masks of ${layer.label}: ${whole0(net.counts[0].into.reduce((a, b) => a + b, 0))} of ${whole0(weightsOf(layer))} weights kept; ${dead} units read nothing.`);
}

function across(size, units) {
  const wide = at("masks").clientWidth;
  return Math.max(1, Math.min(units, Math.floor(wide / ((size[0] + 2) * Math.max(1, Math.round(30 / size[0]))))));
}
const stampHeight = (size, units) => {
  const count = across(size, units);
  return (at("masks").clientWidth / (count * (size[0] + 2))) * Math.ceil(units / count) * (size[1] + 2);
};

/** All pictures on one canvas, one dot for each weight. */
function stamps(net, size, units) {
  const [w, h] = size;
  const layer = page.layers[0];
  const count = across(size, units);
  const rows = Math.ceil(units / count);
  const canvas = make("canvas", { width: count * (w + 2), height: rows * (h + 2) });
  const data = new ImageData(canvas.width, canvas.height);
  const dots = new Uint32Array(data.data.buffer);
  const colour = paint();
  const packed = (name) => { const [r, g, b] = rgb(longHex(colour(name))); return (255 << 24) | (b << 16) | (g << 8) | r; };
  const [plus, minus, gone, kept] = ["plus", "minus", "gone", "kept"].map(packed);
  const each = layer.inputs * windowOf(layer);
  for (let unit = 0; unit < units; unit++) {
    const left = (unit % count) * (w + 2) + 1;
    const top = Math.floor(unit / count) * (h + 2) + 1;
    for (let i = 0; i < w * h; i++) {
      let value = 0;
      let any = 0;
      for (let place = unit * each + i; place < (unit + 1) * each; place += w * h) {
        any |= net.kept[0][place];
        if (net.drawn) value += net.drawn[0][place];
      }
      dots[(top + Math.floor(i / w)) * canvas.width + left + (i % w)] = !any ? gone : !net.drawn ? kept : value < 0 ? minus : plus;
    }
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

let morphing = 0;

function morph(draw) {
  cancelAnimationFrame(morphing);
  if (still.matches || !before) return draw(1);
  const begin = performance.now();
  const step = (now) => {
    const part = Math.min(1, Math.max(0, (now - begin) / 220));
    draw(part);
    if (part < 1) morphing = requestAnimationFrame(step);
  };
  step(begin);
}

// ---------------------------------------------------------------- the level

const columnNames = Object.keys(page.columns);
const shownValue = (level, name) => (level.values[name] === undefined || level.values[name] === null ? "-" : written[page.columns[name][1]](level.values[name]));

function showLevel(series, net) {
  const level = net.level;
  const first = columnNames[0];
  const number = first && level.values[first] !== undefined && level.values[first] !== null ? ` ${upper(page.columns[first][0])} ${shownValue(level, first)}.` : "";
  const total = page.layers.reduce((sum, layer) => sum + weightsOf(layer), 0);
  at("sentence").textContent = `Level ${level.level}: ${share(level.density)} of the weights remain, ${whole0(level.alive)} of ${whole0(total)}.${number} ${level.sentence}`;
  const dead = page.layers.reduce((sum, layer, k) => sum + deadUnits(net, k), 0);
  const tiles = [["weights remaining", share(level.density)], ...columnNames.map((name) => [page.columns[name][0], shownValue(level, name)]), ["dead units", whole0(dead)]];
  at("numbers").replaceChildren(...tiles.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  at("level-name").textContent = `${level.level}: ${share(level.density)}`;
  at("level").setAttribute("aria-valuetext", `level ${level.level}, ${share(level.density)} of the weights remain`);
  drawCurve(series);
}

const upper = (words) => words[0].toUpperCase() + words.slice(1);

function deadUnits(net, k) {
  let count = 0;
  for (let unit = 0; unit < page.layers[k].outputs; unit++) if (isDead(net, k, unit)) count++;
  return count;
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The first of the columns over the levels: each arm of this replicate, this arm on top. */
function drawCurve(series) {
  const name = columnNames[0];
  const lines = page.series.filter((each) => each.replicate === series.replicate && each.levels.length);
  const values = lines.flatMap((each) => each.levels.map((level) => level.values[name]).filter((value) => Number.isFinite(value)));
  at("curve").replaceChildren();
  at("curve-caption").textContent = "";
  if (!name || !values.length) return;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const last = Math.max(1, ...lines.flatMap((each) => each.levels.map((level) => level.level)));
  const x = (level) => 58 + (level / last) * 330;
  const y = (value) => 12 + (1 - (value - low) / (high - low || 1)) * 96;
  const colour = paint();
  const write = written[page.columns[name][1]];
  const drawing = at("curve");
  drawing.setAttribute("viewBox", "0 0 400 136");
  for (const value of [low, high]) drawing.append(svg("text", { x: 53, y: y(value) + 4, "text-anchor": "end" }, write(value)));
  for (const each of [...lines.filter((one) => one !== series), series]) {
    const points = each.levels.filter((level) => Number.isFinite(level.values[name])).map((level) => `${x(level.level)},${y(level.values[name])}`);
    drawing.append(svg("polyline", { points: points.join(" "), fill: "none", stroke: colour(each === series ? "one" : "other"), "stroke-width": each === series ? 2.5 : 1.2 }));
  }
  const here = series.levels[view.place];
  if (Number.isFinite(here.values[name])) drawing.append(svg("circle", { cx: x(here.level), cy: y(here.values[name]), r: 5, fill: colour("mark") }));
  drawing.append(svg("text", { x: 58, y: 130 }, "level 0"), svg("text", { x: 388, y: 130, "text-anchor": "end" }, `level ${last}`));
  const others = lines.length > 1 ? `; thin, the other arms: ${lines.filter((one) => one !== series).map((one) => one.arm).join(", ")}` : "";
  at("curve-caption").textContent = `${upper(page.columns[name][0])}, replicate ${series.replicate}. Bold: ${series.arm}${others}.`;
  drawing.setAttribute("aria-label", `${at("curve-caption").textContent} From ${write(low)} to ${write(high)}; each value is in the table of levels.`);
}

// ---------------------------------------------------------------- a unit

function showUnit(series, net) {
  const holder = at("unit-parts");
  if (view.layer < 0) {
    at("unit-title").textContent = "A unit";
    at("unit-sentence").textContent = "Choose a unit to see what it reads, what it feeds and what excites it.";
    holder.replaceChildren();
    return;
  }
  const { layer: k, unit } = view;
  const layer = page.layers[k];
  const into = net.counts[k].into[unit];
  const fed = feeds(net, k, unit);
  const all = layer.inputs * windowOf(layer);
  const feeding = spread(k + 1) ? ` feeds ${whole0(fed.length)} of the ${whole0(page.layers[k + 1].outputs)} units of ${page.layers[k + 1].label}` : (page.chained ? k + 1 === page.layers.length : layer.kind === "output") ? " is an output" : " what it feeds is not known here";
  const stands = isText && page.words.length === layer.outputs ? ` (${word(unit)})` : "";
  at("unit-title").textContent = `Unit ${unitName(k, unit)}${stands}`;
  at("unit-sentence").textContent = `Unit ${unitName(k, unit)} keeps ${whole0(into)} of its ${whole0(all)} weights;${feeding}.${deathOf(net, k, unit, fed)}`;
  holder.replaceChildren(...seen(net, k, unit), ...excites(series, net, k, unit), ...linked(net, k, unit, fed), ...moved(net, k, unit));
}

/** What a unit sees, as a picture: its own weights, or the sum over all paths from the image to it. */
function seen(net, k, unit) {
  const layer = page.layers[k];
  if (isText) return tokensRead(net, k, unit);
  if (page.inputs.length) return inputsRead(net, k, unit);
  if (layer.window.length === 2) return [heading("What it sees"), kernels(net, k, unit), note("One kernel for each channel that it reads; red above 0, blue below, grey pruned.")];
  if (!net.drawn || !page.chained || !firstReadsImage) return [];
  const path = paths(net, k, unit);
  const [channels, h, w] = page.shape;
  const values = new Float32Array(h * w);
  const any = new Uint8Array(h * w);
  for (let j = 0; j < channels * h * w; j++) { values[j % (h * w)] += path.values[j]; any[j % (h * w)] |= path.any[j]; }
  const most = values.reduce((found, value) => Math.max(found, Math.abs(value)), 0) || 1;
  const pixels = any.reduce((sum, value) => sum + value, 0);
  const label = `${whole0(pixels)} of ${whole0(h * w)} pixels reach ${unitName(k, unit)}`;
  const drawn = picture(w, h, (i) => (any[i] ? values[i] / most : null), label);
  const told = k === 0 ? "Its weights, pixel by pixel: red above 0, blue below, grey pruned." : `Products of the weights along each path from a pixel, summed over ${k + 1} layers, as if every unit on the way were active; grey is reached by no path.`;
  return [heading("What it sees"), make("ul", { class: "pictures big" }, make("li", {}, drawn)), note(`${label}. ${told}`)];
}

function paths(net, k, unit) {
  let values = new Float32Array(page.layers[k].outputs);
  let any = new Uint8Array(page.layers[k].outputs);
  values[unit] = any[unit] = 1;
  for (let l = k; l >= 0; l--) {
    const { outputs, inputs } = page.layers[l];
    const next = new Float32Array(inputs);
    const reached = new Uint8Array(inputs);
    for (let o = 0; o < outputs; o++) {
      if (!any[o]) continue;
      for (let j = 0, i = o * inputs; j < inputs; j++, i++) {
        if (!net.kept[l][i]) continue;
        next[j] += values[o] * net.drawn[l][i] * net.drawnUnit[l];
        reached[j] = 1;
      }
    }
    [values, any] = [next, reached];
  }
  return { values, any };
}

function kernels(net, k, unit) {
  const layer = page.layers[k];
  const [h, w] = layer.window;
  const list = make("ul", { class: "pictures" });
  const most = net.drawn ? net.drawn[k].subarray(unit * layer.inputs * h * w, (unit + 1) * layer.inputs * h * w).reduce((m, v) => Math.max(m, Math.abs(v)), 0) || 1 : 1;
  let left = 0;
  for (let j = 0; j < layer.inputs; j++) {
    const start = (unit * layer.inputs + j) * h * w;
    const count = net.kept[k].subarray(start, start + h * w).reduce((sum, value) => sum + value, 0);
    if (!count) continue;
    if (list.children.length >= 24) { left++; continue; }
    const cell = (i) => (net.kept[k][start + i] ? (net.drawn ? net.drawn[k][start + i] / most : 1) : null);
    const channel = j + Math.floor(unit / (layer.outputs / layer.groups)) * layer.inputs;
    list.append(make("li", {}, picture(w, h, cell, `kernel of channel ${channel}: ${count} of ${h * w} kept`), `${channel}`));
  }
  if (left) list.append(make("li", { class: "text" }, `and ${left} channels more`));
  return list;
}

const heading = (words) => make("h3", {}, words);
const note = (words) => make("p", {}, words);

function excites(series, net, k, unit) {
  const set = series.examples === null ? null : page.examples[series.examples];
  const own = net.exciting && net.exciting.get(k);
  if (!set || !own || set.part === null) return [];
  const list = make("ul", { class: "pictures" });
  const places = [...own.places.subarray(unit * page.top, (unit + 1) * page.top)];
  const values = own.values.subarray(unit * page.top, (unit + 1) * page.top);
  places.forEach((place, n) => {
    const label = `answer ${set.labels[place]}, ${written.number(values[n])}`;
    if (isText) list.append(piece(set, place, own.spots[unit * page.top + n], values[n]));
    else if (!isImage) list.append(vector(set, place, values[n]));
    else list.append(make("li", {}, example(set, place, `example ${place}, ${label}`), make("br"), `${set.labels[place]}: ${written.number(values[n])}`));
  });
  const asleep = values[0] <= 0 ? " None of the examples brings it above 0." : "";
  return [heading("What excites it most"), list, note(`The strongest of ${set.labels.length} examples of the test set, at the end of this level's training: ${isText ? "what the layer gives, before what follows it, at the token that is marked" : "right answer, and what the layer gives before what follows it"}.${asleep}`)];
}

const AROUND = 12; // tokens on each side
const word = (token) => (page.words[token] === undefined ? `token ${token}` : page.words[token].replace(/\n/g, "\u23ce"));
const between = page.words.length && page.words.every((each) => [...each].length <= 1) ? "" : " ";

/** The part of a text around a token, which is marked. */
function piece(set, place, spot, value) {
  const item = make("li", { class: "text" });
  part(set.part).then((bytes) => {
    const length = page.shape[0];
    const tokens = new Uint16Array(bytes.buffer).subarray(place * length, (place + 1) * length);
    const around = between ? AROUND : 2 * AROUND;
    const words = (from, to) => [...tokens.subarray(Math.max(0, from), to)].map(word).filter(Boolean).join(between);
    item.append(`${written.number(value)}: ${spot > around ? "\u2026" : ""}${words(spot - around, spot)}${between}`);
    item.append(make("mark", {}, word(tokens[spot])), `${between}${words(spot + 1, spot + 1 + around)}`);
  });
  return item;
}

const MOST_NUMBERS = 8; // of a vector

function vector(set, place, value) {
  const item = make("li", { class: "text" });
  part(set.part).then((bytes) => {
    const numbers = new Float32Array(bytes.buffer).subarray(place * page.shape[0], (place + 1) * page.shape[0]);
    // Of a table's inputs most are categories that an example is not of: those that are 0 are left out.
    const told = [...numbers].map((number, j) => ({ name: page.inputs[j], number })).filter((each) => !each.name || each.number);
    const shown = told.slice(0, MOST_NUMBERS).map(({ name, number }) => (name ? `${name} ` : "") + number.toPrecision(3)).join(", ");
    const more = told.length > MOST_NUMBERS ? `, and ${told.length - MOST_NUMBERS} more` : "";
    item.append(`${written.number(value)}: (${shown}${more}), answer ${set.labels[place]}`);
  });
  return item;
}

/** The tokens that a unit reads most, where it reads a text token by token. */
function tokensRead(net, k, unit) {
  const own = net.reading.get(k);
  if (!own) return [];
  const list = make("ul", { class: "units" });
  for (let n = unit * own.top; n < (unit + 1) * own.top; n++)
    if (own.values[n]) list.append(make("li", { class: own.values[n] < 0 ? "word minus" : "word plus" }, `${word(own.tokens[n])} ${weight(own.values[n])}`));
  if (!list.children.length) return [heading("What it sees"), note("No token makes a difference to it.")];
  return [heading("What it sees"), list, note("The tokens that its kept weights read most, through the embedding and what normalises it: what the layer gives for the token at the first positions, less the mean over all tokens.")];
}

/** The named inputs that a unit reads most. */
function inputsRead(net, k, unit) {
  if (k || !page.inputs.length) return [];
  const found = ownWeights(net, k, unit).map(({ place, start, trained }) => ({ place, value: Number.isNaN(trained) ? start : trained }));
  if (!found.length || Number.isNaN(found[0].value)) return [];
  found.sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const list = make("ul", { class: "units" });
  for (const { place, value } of found.slice(0, 16)) list.append(make("li", { class: value < 0 ? "word minus" : "word plus" }, `${inputName(k, place)} ${weight(value)}`));
  if (found.length > 16) list.append(make("li", {}, `and ${whole0(found.length - 16)} more`));
  return [heading("What it sees"), list];
}

function example(set, place, label) {
  const [channels, h, w] = page.shape;
  const canvas = make("canvas", { role: "img", "aria-label": label, width: w, height: h });
  part(set.part).then((bytes) => {
    const data = new ImageData(w, h);
    const whitest = set.white;
    for (let i = 0; i < h * w; i++)
      for (let c = 0; c < 3; c++) {
        const from = channels >= 3 ? c : 0;
        data.data[4 * i + c] = (bytes[place * channels * h * w + from * h * w + i] * 255) / whitest;
        data.data[4 * i + 3] = 255;
      }
    canvas.getContext("2d").putImageData(data, 0, 0);
  });
  return canvas;
}

function linked(net, k, unit, fed) {
  const found = [];
  if (k > 0 && spread(k)) found.push(heading("What it reads"), links(reads(net, k, unit), k - 1));
  if (fed.length) found.push(heading("What it feeds"), links(fed, k + 1));
  return found;
}

function links(found, k) {
  const list = make("ul", { class: "units" });
  for (const [unit, sum, count] of found.slice(0, 16)) {
    const button = make("button", { type: "button" }, `${unitName(k, unit)} ${sum ? weight(sum) : ""}${count > 1 ? ` (${count})` : ""}`);
    button.addEventListener("click", () => choose({ layer: k, unit }));
    list.append(make("li", {}, button));
  }
  if (found.length > 16) list.append(make("li", {}, `and ${whole0(found.length - 16)} more`));
  return list;
}

/** Its kept weights before training against after. */
function moved(net, k, unit) {
  const pairs = ownWeights(net, k, unit);
  if (!net.start || !net.trained || !pairs.length) return [];
  const most = Math.max(...pairs.flatMap(({ start, trained }) => [Math.abs(start), Math.abs(trained)])) || 1;
  const changed = pairs.filter(({ start, trained }) => start * trained < 0).length;
  const drawing = svg("svg", { viewBox: "0 0 220 220", role: "img" });
  const colour = paint();
  const [x, y] = [(value) => 110 + (100 * value) / most, (value) => 110 - (100 * value) / most];
  drawing.append(svg("path", { d: "M10 110H210M110 10V210M10 210L210 10", stroke: colour("rule"), fill: "none" }));
  for (const { start, trained } of pairs.slice(0, 800)) drawing.append(svg("circle", { cx: x(start), cy: y(trained), r: 2.2, fill: colour("one"), "fill-opacity": 0.6 }));
  drawing.append(svg("text", { x: 212, y: 106, "text-anchor": "end" }, "before"), svg("text", { x: 114, y: 18 }, "after"));
  const told = `${whole0(pairs.length)} kept weights before training and after; ${whole0(changed)} changed their sign.`;
  drawing.setAttribute("aria-label", told);
  return [heading("Its weights before and after"), make("ul", { class: "pictures big" }, make("li", { class: "plot" }, drawing)), note(`${told} On the diagonal a weight has not moved.${pairs.length > 800 ? " The first 800 are drawn." : ""}`)];
}

function ownWeights(net, k, unit) {
  const layer = page.layers[k];
  const own = layer.inputs * windowOf(layer);
  const found = [];
  for (let i = unit * own; i < (unit + 1) * own; i++)
    if (net.kept[k][i])
      found.push({
        place: i - unit * own,
        start: net.start ? net.start[k][i] * net.startUnit[k] : NaN,
        trained: net.trained ? net.trained[k][i] * net.trainedUnit[k] : NaN,
      });
  return found;
}

// ---------------------------------------------------------------- tables, made when they are opened

function showTables(series, net) {
  const makers = {
    "levels-table": () => levelsTable(series),
    "layers-table": () => layersTable(net),
    "units-table": () => unitsTable(net),
    "weights-table": () => weightsTable(net),
  };
  for (const [id, maker] of Object.entries(makers)) {
    const fill = () => at(id).open && at(id).querySelector("div").replaceChildren(maker());
    at(id).ontoggle = fill;
    fill();
  }
}

function levelsTable(series) {
  const head = ["level", "weights remaining", "weights", ...columnNames.map((name) => page.columns[name][0]), "verdict"];
  const rows = series.levels.map((level) => [`${level.level}`, share(level.density), whole0(level.alive), ...columnNames.map((name) => shownValue(level, name)), level.sentence]);
  return table(`${series.arm}, replicate ${series.replicate}`, head, rows, view.place);
}

function layersTable(net) {
  const rows = page.layers.map((layer, k) => {
    const kept = net.counts[k].into.reduce((sum, value) => sum + value, 0);
    return [layer.label, whole0(layer.outputs), whole0(weightsOf(layer)), whole0(kept), share(kept / weightsOf(layer)), whole0(deadUnits(net, k))];
  });
  return table(`Level ${net.level.level}`, ["layer", "units", "weights", "kept", "share kept", "dead units"], rows, view.layer);
}

function unitsTable(net) {
  const k = Math.max(0, view.layer);
  const own = net.exciting && net.exciting.get(k);
  const fed = spread(k + 1) ? readBy(net, k + 1, page.layers[k].outputs) : null;
  const rows = [...net.counts[k].into].map((into, unit) => [
    unitName(k, unit), whole0(into), fed ? whole0(fed[unit]) : "-",
    isDead(net, k, unit) ? "dead" : "alive", own ? written.number(own.values[unit * page.top]) : "-",
  ]);
  return table(`${page.layers[k].label}, level ${net.level.level}`, ["unit", "weights it keeps", "weights that read it", "state", "largest answer to an example"], rows, view.layer === k ? view.unit : -1);
}

function weightsTable(net) {
  if (view.layer < 0) return note("No unit is chosen.");
  const layer = page.layers[view.layer];
  const size = windowOf(layer);
  const first = Math.floor(view.unit / (layer.outputs / layer.groups)) * layer.inputs;
  const rows = ownWeights(net, view.layer, view.unit).map(({ place, start, trained }) => [
    inputName(view.layer, first + Math.floor(place / size)) + (size > 1 ? `, tap ${place % size}` : ""),
    Number.isNaN(start) ? "-" : weight(start), Number.isNaN(trained) ? "-" : weight(trained),
  ]);
  return table(`Kept weights of ${unitName(view.layer, view.unit)}, rounded to 1/127 of the largest in ${layer.label}`, ["from", "before training", "after"], rows);
}

// ---------------------------------------------------------------- what is chosen

const arms = [...new Set(page.series.map((series) => series.arm))];
const seriesNow = () => page.series.find((each) => each.arm === view.arm && each.replicate === view.replicate);

function choose(changes) {
  const level = seriesNow() ? seriesNow().levels[view.place].level : 0;
  Object.assign(view, changes);
  if (!seriesNow()) view.replicate = page.series.find((each) => each.arm === view.arm).replicate;
  const levels = seriesNow().levels;
  const wanted = changes.level ?? (changes.place === undefined ? level : levels[Math.min(changes.place, levels.length - 1)].level);
  delete view.level;
  view.place = Math.max(0, levels.findLastIndex((each) => each.level <= wanted));
  if (view.layer >= page.layers.length) view.layer = -1;
  if (view.layer >= 0) view.unit = Math.min(Math.max(0, view.unit), page.layers[view.layer].outputs - 1);
  return show();
}

let turn = 0;

async function show() {
  const mine = ++turn;
  const series = seriesNow();
  document.body.dataset.busy = "yes";
  const net = await network(series, view.place);
  if (mine !== turn) return;
  showControls(series);
  showLevel(series, net);
  drawNetwork(net);
  drawMasks(net);
  showUnit(series, net);
  showTables(series, net);
  keepInAddress(net);
  document.body.dataset.shown = `${view.arm}/${view.replicate}/${net.level.level}/${view.layer < 0 ? "" : unitName(view.layer, view.unit)}`;
  delete document.body.dataset.busy;
  setTimeout(() => mine === turn && near(series), 50);
}

/** Unpacks the levels beside the one that is shown, before they are asked for. */
async function near(series) {
  for (const place of [view.place + 1, view.place - 1]) if (series.levels[place]) await network(series, place);
}

function showControls(series) {
  at("arm").value = view.arm;
  const own = page.series.filter((each) => each.arm === view.arm).map((each) => each.replicate);
  at("replicate").replaceChildren(...own.map((each) => make("option", { value: each }, `${each}`)));
  at("replicate").value = view.replicate;
  at("level").max = series.levels.length - 1;
  at("level").value = view.place;
  at("layer").value = view.layer < 0 ? "" : view.layer;
  at("unit").max = view.layer < 0 ? 0 : page.layers[view.layer].outputs - 1;
  at("unit").disabled = view.layer < 0;
  at("unit").value = view.layer < 0 ? "" : view.unit;
}

function keepInAddress(net) {
  const fields = new URLSearchParams({ level: net.level.level, arm: view.arm, replicate: view.replicate });
  if (view.layer >= 0) fields.set("unit", unitName(view.layer, view.unit));
  if (location.hash.slice(1) !== fields.toString()) history.replaceState(null, "", `#${fields}`);
}

function fromAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const changes = {};
  if (arms.includes(fields.get("arm"))) changes.arm = fields.get("arm");
  if (/^\d+$/.test(fields.get("replicate") || "")) changes.replicate = Number(fields.get("replicate"));
  if (/^\d+$/.test(fields.get("level") || "")) changes.level = Number(fields.get("level"));
  const [, label, unit] = /^(.*)\.(\d+)$/.exec(fields.get("unit") || "") || [];
  const layer = page.layers.findIndex((each) => each.label === label);
  if (layer >= 0) Object.assign(changes, { layer, unit: Number(unit) });
  return changes;
}

function nearest(x, y) {
  let best = null;
  places.forEach((column, c) => {
    if (c === 0) return;
    for (let unit = 0; unit < column.count; unit++) {
      const [left, top] = column.at(unit);
      const distance = (left - x) ** 2 + (top - y) ** 2;
      if (!best || distance < best.distance) best = { distance, layer: drawnLayers()[c - 1], unit };
    }
  });
  return best && best.distance < 400 ? { layer: best.layer, unit: best.unit } : null;
}

const MOVES = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

function onKey(event) {
  if (event.key === "Escape") return choose({ layer: -1, unit: -1 });
  const move = MOVES[event.key];
  if (!move) return;
  event.preventDefault();
  if (view.layer < 0) return choose({ layer: 0, unit: 0 });
  const layer = Math.min(page.layers.length - 1, Math.max(0, view.layer + move[0]));
  const outputs = page.layers[layer].outputs;
  choose({ layer, unit: Math.min(outputs - 1, Math.max(0, view.unit + move[1])) });
}

let playing = 0;

function play() {
  const stop = () => { clearInterval(playing); playing = 0; at("play").textContent = "Play"; at("play").setAttribute("aria-pressed", "false"); };
  if (playing) return stop();
  at("play").textContent = "Pause";
  at("play").setAttribute("aria-pressed", "true");
  if (view.place === seriesNow().levels.length - 1) choose({ place: 0 });
  playing = setInterval(() => (view.place < seriesNow().levels.length - 1 ? choose({ place: view.place + 1 }) : stop()), 900);
}

function begin() {
  at("arm").append(...arms.map((arm) => make("option", { value: arm }, arm)));
  at("layer").append(make("option", { value: "" }, "none"), ...page.layers.map((layer, k) => make("option", { value: k }, layer.label)));
  at("notes").append(...page.notes.map((words) => make("li", {}, words)));
  at("arm").addEventListener("change", () => choose({ arm: at("arm").value }));
  at("replicate").addEventListener("change", () => choose({ replicate: Number(at("replicate").value) }));
  at("level").addEventListener("input", () => choose({ place: Number(at("level").value) }));
  at("layer").addEventListener("change", () => choose(at("layer").value === "" ? { layer: -1, unit: -1 } : { layer: Number(at("layer").value), unit: 0 }));
  at("unit").addEventListener("change", () => choose({ unit: Math.floor(Number(at("unit").value)) || 0 }));
  at("play").addEventListener("click", play);
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("network").addEventListener("keydown", onKey);
  at("network").addEventListener("click", (event) => choose(nearest(event.offsetX, event.offsetY) || { layer: -1, unit: -1 }));
  addEventListener("hashchange", () => choose(fromAddress()));
  addEventListener("resize", () => { before = null; show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { before = null; show(); });
  Object.assign(view, { arm: page.series[0].arm, replicate: page.series[0].replicate });
  return choose({ level: 0, ...fromAddress() });
}

if (typeof DecompressionStream === "undefined" || !Array.prototype.findLastIndex) {
  at("trouble").textContent = "This page needs a browser of 2023 or later (Chrome 103, Firefox 113, Safari 16.4), to unpack what it holds.";
  at("trouble").hidden = false;
} else {
  begin();
}
