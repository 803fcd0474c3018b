// The latent page. First the arithmetic, which knows of no page; then the
// drawing; then what mouse, finger and keys do. Everything is in nats.

// === Arithmetic ===

const SIDE = 28;
const PIXELS = SIDE * SIDE;
const LATENT_DIM = 2;

/** Unpacks what the build script has packed: see `pack` in build.py. */
async function unpack(base64, contents) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(inflated).arrayBuffer();
  let start = 0;
  const take = (Kind, length) => {
    const from = start;
    start += length * Kind.BYTES_PER_ELEMENT;
    return new Kind(bytes.slice(from, start));
  };
  const labels = take(Uint8Array, contents.num_digits);
  const images = take(Uint8Array, contents.num_images * PIXELS);
  const takeLayer = ([inputs, outputs]) => {
    const low = take(Uint8Array, inputs * outputs);
    const high = take(Int8Array, inputs * outputs);
    const rows = take(Int8Array, inputs);
    const columns = take(Int8Array, outputs);
    const bias = take(Float32Array, outputs);
    const weights = new Float32Array(inputs * outputs);
    for (let i = 0, k = 0; i < inputs; i++)
      for (let j = 0; j < outputs; j++, k++) {
        const at = outputs === PIXELS ? k : j * inputs + i;
        // Steps are powers of two, so that this is exact.
        weights[k] = (256 * high[at] + low[at]) * 2 ** (rows[i] + columns[j]);
      }
    return { inputs, outputs, weights, bias };
  };
  const models = contents.models.map((model) => ({
    ...model,
    means: Float32Array.from(
      take(Int16Array, contents.num_digits * LATENT_DIM), (z) => z / 256),
    encoder: model.encoder.map(takeLayer),
    decoder: model.decoder.map(takeLayer),
  }));
  return { labels, images, models };
}

/** Applies dense layers with ReLU between them to one vector. */
function apply(layers, h) {
  layers.forEach(({ inputs, outputs, weights, bias }, n) => {
    const y = Float64Array.from(bias);
    for (let i = 0; i < inputs; i++) {
      const value = h[i];
      if (value === 0) continue; // Half of the units after a ReLU.
      for (let j = 0, k = i * outputs; j < outputs; j++, k++)
        y[j] += value * weights[k];
    }
    const isLast = n === layers.length - 1;
    h = isLast ? y : y.map((value) => Math.max(value, 0));
  });
  return h;
}

/** q(z|x): the mean and the log-variance of each latent dimension. */
function encode(model, x) {
  const h = apply(model.encoder, x);
  return { mean: h.slice(0, LATENT_DIM), logVar: h.slice(LATENT_DIM) };
}

const decode = (model, z) => apply(model.decoder, z);
const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

/** −log p(x|z) of Bernoulli pixels, from logits. */
function reconstructionLoss(x, logits) {
  let sum = 0;
  for (let i = 0; i < logits.length; i++)
    sum += Math.max(logits[i], 0) - x[i] * logits[i] +
      Math.log1p(Math.exp(-Math.abs(logits[i])));
  return sum;
}

/** KL(q(z|x) ‖ N(0, I)). */
function klLoss({ mean, logVar }) {
  let sum = 0;
  for (let d = 0; d < mean.length; d++)
    sum += 0.5 * (mean[d] ** 2 + Math.expm1(logVar[d]) - logVar[d]);
  return sum;
}

/** One draw of z from q(z|x): −log p(x|z), and log p(x|z) p(z) / q(z|x). */
function drawOnce(model, x, { mean, logVar }, epsilon) {
  const z = mean.map((m, d) => m + Math.exp(0.5 * logVar[d]) * epsilon[d]);
  const loss = reconstructionLoss(x, decode(model, z));
  let logWeight = -loss;
  for (let d = 0; d < z.length; d++)
    logWeight += 0.5 * (epsilon[d] ** 2 + logVar[d] - z[d] ** 2);
  return { z, loss, logWeight };
}

function meanAndError(values) {
  const n = values.length, mean = values.reduce((sum, v) => sum + v, 0) / n;
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return [mean, Math.sqrt(squares / (n - 1) / n)];
}

/** Of draws: the mean loss and the importance-weighted bound, with errors. */
function summary(draws) {
  const [loss, lossError] = meanAndError(draws.map((draw) => draw.loss));
  const largest = Math.max(...draws.map((draw) => draw.logWeight));
  const [weight, error] = meanAndError(
    draws.map((draw) => Math.exp(draw.logWeight - largest)));
  const bound = -largest - Math.log(weight);
  return { loss, lossError, bound, boundError: error / weight };
}

/** Standard normal numbers, the same after each start. */
function normals() {
  let bits = 2463534242;
  const uniform = () => { // Marsaglia's xorshift, 2003.
    bits ^= bits << 13;
    bits ^= bits >>> 17;
    bits ^= bits << 5;
    return (bits >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) *
    Math.cos(2 * Math.PI * uniform());
}

/** The commonest label among the means nearest to z, and its share. */
function neighbours(means, labels, z, number = 25) {
  const distances = Float64Array.from(labels, (_, i) =>
    (means[2 * i] - z[0]) ** 2 + (means[2 * i + 1] - z[1]) ** 2);
  const limit = distances.slice().sort()[number - 1];
  const counts = new Array(10).fill(0);
  labels.forEach((label, i) => { counts[label] += distances[i] <= limit; });
  const [most, all] = [Math.max(...counts), counts.reduce((a, b) => a + b)];
  return { label: counts.indexOf(most), share: most / all };
}

/** How to place strokes: as in MNIST, they fill 20 of 28 pixels. */
function placement(strokes, lineWidth) {
  const [x, y] = [0, 1].map((axis) => {
    const values = strokes.flat().map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  });
  // What is small on the pad, such as a dot, stays small.
  const size = Math.max(x[1] - x[0], y[1] - y[0], 0.25);
  const middle = [x, y].map(([low, high]) => (low + high) / 2);
  return { scale: (20 - lineWidth) / size, middle };
}

/** Where the middle of the ink lies, in pixels from the corner. */
function middleOfInk(x) {
  let [ink, across, down] = [0, 0, 0];
  x.forEach((value, i) => {
    ink += value;
    across += value * (i % SIDE + 0.5);
    down += value * (Math.floor(i / SIDE) + 0.5);
  });
  return [across / ink, down / ink];
}

// === Drawing ===

// Petroff's ten colours, which the figures of the series have too.
const COLOURS = ["3f90da", "ffa90e", "bd1f01", "94a4a2", "832db6", "a96b59",
  "e76300", "b9ac70", "717581", "92dadd"];
const EXTENT = 4; // The map shows z from −4 to 4.
const GRID = 15; // Digits in a row of the grid.
const LINE = 2.4; // The width of a stroke, in pixels of a digit.
const DRAWS = 5000;
const SAMPLES = 8; // Of the draws, as many are shown.
const $ = (id) => document.getElementById(id);
const [map, pad] = [$("map"), $("pad")];
const [dots, grid] = [new OffscreenCanvas(1, 1),
  new OffscreenCanvas(GRID * SIDE, GRID * SIDE)];
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
const bytes = (hex) => hex.match(/\w\w/g).map((byte) => parseInt(byte, 16));
const css = (colour, alpha = 1) => `rgb(${colour.join(" ")} / ${alpha})`;
const theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "paper", "accent"])
    theme[name] = bytes(style.getPropertyValue(`--${name}`));
  // A third of ink, for contrast with the paper.
  theme.hues = COLOURS.map((hex) =>
    css(bytes(hex).map((part, c) => (2 * part + theme.ink[c]) / 3)));
}

/** Draws probabilities of ink into a canvas, at a place of 28 × 28. */
function drawDigit(canvas, probabilities, column = 0, row = 0) {
  const { ink, paper } = theme, image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < PIXELS; i++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = paper[c] + (ink[c] - paper[c]) * probabilities[i];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, column * SIDE, row * SIDE);
}

const drawDecoded = (canvas, model, z, column, row) =>
  drawDigit(canvas, decode(model, z).map(sigmoid), column, row);
const onMap = (z) => [(1 + z[0] / EXTENT) * map.width / 2,
  (1 - z[1] / EXTENT) * map.height / 2];

/** Draws the posterior means as numerals: once, and not in each frame. */
function drawDots(means, labels) {
  dots.width = dots.height = map.width;
  const context = dots.getContext("2d");
  Object.assign(context, { textAlign: "center", textBaseline: "middle",
    font: `600 ${Math.max(9 * devicePixelRatio, map.width / 60)}px sans-serif` });
  labels.forEach((label, i) => {
    context.fillStyle = theme.hues[label];
    context.fillText(label, ...onMap([means[2 * i], means[2 * i + 1]]));
  });
}

function drawMap({ isGrid, z, walk, press, mark, posterior, draws }) {
  const context = map.getContext("2d"), dpr = devicePixelRatio;
  const line = (colour, width, add) => {
    Object.assign(context, { strokeStyle: colour, lineWidth: width * dpr });
    context.beginPath();
    add();
    context.stroke();
  };
  const ring = (centre, radii, colour, width) => line(colour, width, () =>
    context.ellipse(...onMap(centre),
      ...Array.from(radii, (r) => r * map.width / (2 * EXTENT)), 0, 0, 7));
  const segment = (from, to) => { context.moveTo(...from); context.lineTo(...to); };
  context.clearRect(0, 0, map.width, map.height);
  context.drawImage(isGrid ? grid : dots, 0, 0, map.width, map.height);
  context.setLineDash([4 * dpr, 4 * dpr]);
  for (const r of [1, 2, 3]) ring([0, 0], [r, r], css(theme.ink, 0.5), 1);
  context.setLineDash([]);
  const from = walk?.from ?? press ?? mark;
  if (from)
    line(css(theme.ink), 2, () => segment(onMap(from), onMap(walk?.to ?? z)));
  const deviation = posterior.logVar.map((v) => Math.exp(0.5 * v));
  context.fillStyle = css(theme.accent);
  for (const draw of draws.slice(0, SAMPLES))
    context.fillRect(...onMap(draw.z).map((v) => v - dpr), 2 * dpr, 2 * dpr);
  for (const n of [1, 2])
    ring(posterior.mean, deviation.map((d) => n * d), css(theme.accent), 2);
  for (const [colour, width] of [[theme.paper, 5], [theme.accent, 2]])
    ring(posterior.mean, deviation.map((d) => 2 * d + 0.3), css(colour), width);
  const [x, y] = onMap(z), arm = 9 * dpr;
  for (const [colour, width] of [[theme.paper, 5], [theme.ink, 2]])
    line(css(colour), width, () => {
      segment([x - arm, y], [x + arm, y]);
      segment([x, y - arm], [x, y + arm]);
    });
}

function drawStrokes(context, strokes, place, lineWidth) {
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth,
    strokeStyle: css(theme.ink) });
  for (const points of strokes) {
    context.beginPath();
    for (const point of [points[0], ...points]) context.lineTo(...place(point));
    context.stroke();
  }
}

/** Draws strokes as a digit of MNIST, the middle of their ink in the middle. */
function pictureOf(strokes) {
  const x = new Float64Array(PIXELS);
  if (strokes.length === 0) return x;
  const { scale, middle } = placement(strokes, LINE);
  let aim = [SIDE / 2, SIDE / 2];
  for (const pass of [1, 2]) {
    const canvas = new OffscreenCanvas(SIDE, SIDE);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    drawStrokes(context, strokes, (point) => point.map((v, axis) =>
      aim[axis] + (v - middle[axis]) * scale), LINE);
    const { data } = context.getImageData(0, 0, SIDE, SIDE);
    x.forEach((_, i) => { x[i] = data[4 * i + 3] / 255; });
    if (pass === 1) aim = middleOfInk(x).map((v) => SIDE - v);
  }
  return x;
}

// === The page ===

const contents = JSON.parse($("contents").textContent);
const { labels, images, models } =
  await unpack($("packed").textContent, contents);
const state = {
  model: models[0], means: models[0].means, test: models[0].test, fade: null,
  z: [0, 0], walk: null, press: null, mark: null,
  isGrid: false, cells: 0, isNew: true, frames: 0,
  x: new Float64Array(PIXELS), what: "", picked: -1,
  strokes: [], pen: [0.5, 0.5], isDown: false, hasKeys: false,
};
// For the console, and for the test that compares with Keras.
globalThis.latent = { contents, models, labels, images, state, encode, decode,
  reconstructionLoss, klLoss, drawOnce, summary, look, moveTo, setModel };

const nats = (value, digits = 1) => value.toFixed(digits);
const withError = (value, error) =>
  nats(value) + (Number.isFinite(error) ? ` ± ${nats(error, 2)}` : "");
const point = (z) =>
  `(${z.map((v) => v.toFixed(2).replace("-", "−")).join(", ")})`;
const share = (part) => `${Math.round(100 * part)}%`;
const between = (a, b, t) => Array.from(a, (v, i) => v + (b[i] - v) * t);

let waiting;
/** Gives a sentence to screen readers, once nothing newer has come. */
function say(sentence) {
  clearTimeout(waiting);
  waiting = setTimeout(() => { $("spoken").textContent = sentence; }, 500);
}

/** How far a motion has come, from 0 to 1, with soft ends. */
function progress(motion, now, duration) {
  motion.start ??= now;
  const t = isStill.matches ? 1 : Math.min(1, (now - motion.start) / duration);
  return t * t * (3 - 2 * t);
}

/** One frame: what is not up to date, and sums in the time that is left. */
function frame(now) {
  const { model, walk, fade, draws } = state;
  const until = performance.now() + 9;
  if (fade) {
    const t = progress(fade, now, 700);
    state.means = between(fade.means, model.means, t);
    state.test = between(fade.test, model.test, t);
    ["reconstruction", "kl", "elbo"].forEach((name, i) => {
      $(`test-${name}`).textContent = nats(state.test[i]);
    });
    drawDots(state.means, labels);
    Object.assign(state, { isNew: true, fade: t === 1 ? null : fade });
  }
  if (walk) {
    const t = progress(walk, now, 2500);
    moveTo(between(walk.from, walk.to, t));
    if (t === 1) state.walk = null;
  }
  if (state.isNew) {
    state.frames++;
    drawDecoded($("decoded"), model, state.z);
    drawMap(state);
    const near = neighbours(model.means, labels, state.z);
    $("where").textContent = `z = ${point(state.z)}. Of the nearest test digits, ` +
      `${share(near.share)} are ${near.label}s.`;
    say($("where").textContent);
    state.isNew = false;
  }
  while (state.isGrid && state.cells < GRID ** 2 && performance.now() < until) {
    const column = state.cells % GRID, row = Math.floor(state.cells++ / GRID);
    const at = (n) => ((n + 0.5) / GRID * 2 - 1) * EXTENT;
    drawDecoded(grid, model, [at(column), -at(row)], column, row);
    state.isNew = true;
  }
  if (draws.length < DRAWS) {
    do addDraw(); while (draws.length < DRAWS && performance.now() < until);
    showNats();
  }
  requestAnimationFrame(frame);
}

function addDraw() {
  const { model, x, posterior, draws, normal } = state;
  const draw = drawOnce(model, x, posterior, [normal(), normal()]);
  if (draws.length < SAMPLES) {
    drawDecoded($("samples"), model, draw.z, draws.length, 0);
    state.isNew = true;
  }
  draws.push(draw);
  const cell = $(`bound-${draws.length}`);
  if (!cell) return;
  const { bound, boundError } = summary(draws);
  cell.textContent = withError(bound, boundError);
}

function showNats() {
  const { draws, model, posterior, x, what } = state, kl = klLoss(posterior);
  const { loss, lossError, bound, boundError } = summary(draws);
  $("reconstruction").textContent = withError(loss, lossError);
  $("kl").textContent = nats(kl);
  $("elbo").textContent = withError(loss + kl, lossError);
  $("bound").textContent = withError(bound, boundError);
  $("draws").textContent = draws.length.toLocaleString("en");
  const { percentiles } = model;
  const cheaper = percentiles.filter((value) => value < loss + kl).length;
  $("rank").textContent = `${what}: ${nats(loss + kl)} nats, more than ` +
    `${share(cheaper / percentiles.length)} of the test digits cost.` +
    (x.some((v) => v > 0) ? "" :
      " A page without ink is easy to predict, so it is cheap.");
  if (draws.length === DRAWS) say($("rank").textContent);
}

function moveTo(z) {
  state.z = Array.from(z, (v) => Math.min(EXTENT, Math.max(-EXTENT, v)));
  state.isNew = true;
}

function walkTo(from, to) {
  Object.assign(state, { walk: { from, to }, mark: null });
  for (let i = 0; i < 10; i++)
    drawDecoded($("walk"), state.model, between(from, to, i / 9), i, 0);
  $("walk").ariaLabel =
    `Ten digits on the way from ${point(from)} to ${point(to)}`;
}

/** Encodes a picture, and starts to draw from its posterior. */
function look(x, what = state.what) {
  Object.assign(state, { x, what, posterior: encode(state.model, x),
    draws: [], normal: normals(), isNew: true });
  drawDigit($("seen"), x);
  drawDecoded($("mean"), state.model, state.posterior.mean);
  for (const cell of document.querySelectorAll("[id^=bound-]"))
    cell.textContent = "…";
}

function setModel(index) {
  const model = models[index], { means, test } = state;
  Object.assign(state, { model, cells: 0, walk: null, fade: { means, test } });
  $("beta").value = index;
  $("beta").ariaValueText = `β = ${model.beta}`;
  $("beta-now").textContent = model.beta;
  look(state.x);
  say(`β = ${model.beta}: the KL of a test digit is ${nats(model.test[1])} nats.`);
}

function drawPad() {
  const context = pad.getContext("2d"), { width } = pad;
  const place = (p) => p.map((v) => v * width);
  context.clearRect(0, 0, width, width);
  drawStrokes(context, state.strokes, place, LINE / SIDE * width);
  if (!state.hasKeys) return;
  context.fillStyle = css(theme.accent);
  context.fillRect(...place(state.pen).map((v) => v - width / 56),
    width / SIDE, width / SIDE);
}

function setStrokes(strokes) {
  state.strokes = strokes;
  drawPad();
  look(pictureOf(strokes), strokes.length ? "Your drawing" : "A blank page");
}

function penTo(position, isStart) {
  const strokes = isStart ? [...state.strokes, []] : state.strokes;
  strokes.at(-1).push(position);
  setStrokes(strokes);
}

/** The next of the test digits that show this number. */
function pick(digit) {
  let i = state.picked;
  do i = (i + 1) % contents.num_images; while (labels[i] !== digit);
  Object.assign(state, { picked: i, strokes: [] });
  drawPad();
  const picture = images.subarray(i * PIXELS, (i + 1) * PIXELS);
  look(Float64Array.from(picture, (byte) => byte / 255),
    `Test digit ${i}, a ${digit}`);
  moveTo(state.posterior.mean);
}

// === Mouse, finger and keys ===

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1],
  ArrowDown: [0, -1] };
/** Listens to pointers, with their place in a canvas from 0 to 1. */
const onPointer = (canvas, name, act) =>
  canvas.addEventListener(`pointer${name}`, (event) => {
    const box = canvas.getBoundingClientRect();
    if (name === "down") canvas.setPointerCapture(event.pointerId);
    act([(event.clientX - box.left) / box.width,
      (event.clientY - box.top) / box.height]);
  });
/** Listens to keys; one that is none of a canvas's does what it always does. */
const onKey = (canvas, act) => canvas.addEventListener("keydown", (event) => {
  if (act(event.key, STEPS[event.key], event.shiftKey) !== false)
    event.preventDefault();
});
const inPlane = ([x, y]) => [(2 * x - 1) * EXTENT, (1 - 2 * y) * EXTENT];

onPointer(map, "down", (place) => {
  moveTo(inPlane(place));
  Object.assign(state, { walk: null, mark: null, press: state.z });
});
onPointer(map, "move", (place) => {
  // The mouse that has just let go of a walk does not stop it.
  if (!state.walk) moveTo(inPlane(place));
});
onPointer(map, "up", () => {
  const { press, z } = state;
  if (press && Math.hypot(press[0] - z[0], press[1] - z[1]) > 0.3) walkTo(press, z);
  Object.assign(state, { press: null, isNew: true });
});
onPointer(map, "cancel", () => { state.press = null; });
onKey(map, (key, step, isLong) => {
  if (step) {
    state.walk = null;
    moveTo(state.z.map((v, d) => v + (isLong ? 0.5 : 0.1) * step[d]));
  } else if (key === "Home") moveTo([0, 0]);
  else if (key === "Escape") state.mark = null;
  else if (key === "Enter" && state.mark) walkTo(state.mark, state.z);
  else if (key === "Enter") {
    state.mark = state.z;
    say("Start of a walk. Move on, and press Enter at its end.");
  } else return false;
  state.isNew = true;
});
$("grid").addEventListener("click", () => {
  Object.assign(state, { isGrid: !state.isGrid, isNew: true });
  $("grid").ariaPressed = state.isGrid;
});
$("beta").addEventListener("input", () => setModel($("beta").value));

onPointer(pad, "down", (place) => {
  Object.assign(state, { isDown: true, hasKeys: false });
  penTo(place, true);
});
onPointer(pad, "move", (place) => {
  if (state.isDown && !state.hasKeys) penTo(place);
});
for (const name of ["up", "cancel"])
  onPointer(pad, name, () => { state.isDown = false; });
onKey(pad, (key, step) => {
  const isPen = key === " " || key === "Enter";
  if (!step && !isPen && key !== "Delete") return false;
  state.hasKeys = true;
  if (step)
    state.pen = [state.pen[0] + step[0] / SIDE, state.pen[1] - step[1] / SIDE]
      .map((v) => Math.min(1, Math.max(0, v)));
  if (isPen) {
    state.isDown = !state.isDown;
    say(state.isDown ? "Pen down" : "Pen up");
  }
  if (key === "Delete") setStrokes([]);
  else if (state.isDown) penTo(state.pen, isPen);
  else drawPad();
});
pad.addEventListener("blur", () => {
  Object.assign(state, { isDown: false, hasKeys: false });
  drawPad();
});
$("clear").addEventListener("click", () => setStrokes([]));
for (const button of document.querySelectorAll("[data-digit]"))
  button.addEventListener("click", () => pick(+button.dataset.digit));

function redraw() {
  readTheme();
  for (const canvas of [map, pad])
    canvas.width = canvas.height =
      Math.round(canvas.clientWidth * devicePixelRatio);
  state.cells = 0;
  drawDots(state.means, labels);
  drawPad();
  look(state.x);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) redraw(); // A telephone's bars change the height.
  width = innerWidth;
});
redraw();
setModel(0);
pick(7);
document.body.classList.add("ready");
requestAnimationFrame(frame);
