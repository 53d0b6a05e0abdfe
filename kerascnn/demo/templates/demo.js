// In a module, behind ONNX Runtime, which is `onnxruntime`. Three elements hold data:
// what the page knows (JSON), the network and the runtime (gzip, base64).

const page = JSON.parse(document.getElementById("page").textContent);
const [HEIGHT, WIDTH, CHANNELS] = page.shape;
const { classes } = page;
const SHOWN = 12; // classes that have a bar each; of more, the likeliest have
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const pause = () => new Promise((resolve) => { setTimeout(resolve); });

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Images. An image is { pixels, says, truth }: pixels of the network's size, uint8, rows
// first and channels last.

// The weights of a filter by which Pillow resizes along one axis: from `size` numbers
// the part `low` to `high`, to `count`; fixed point of 22 bits.
function weights(size, low, high, count) {
  const scale = Math.fround(Math.fround(high) - Math.fround(low)) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, at) => {
    const center = Math.fround(low) + (at + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const raw = [];
    for (let x = first; x < last; x += 1) {
      raw.push(Math.max(1 - Math.abs((x - center + 0.5) / support), 0));
    }
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, of: raw.map((w) => Math.trunc(0.5 + (w / sum) * 2 ** 22)) };
  });
}

// One axis of a resize: `lines` lines, each of numbers `step` apart, lines `stride`.
function along(from, filters, lines, step, stride, toStep, toStride) {
  const to = new Uint8Array(lines * filters.length);
  for (let line = 0; line < lines; line += 1) {
    filters.forEach(({ first, of }, at) => {
      let sum = 2 ** 21;
      for (let k = 0; k < of.length; k += 1) {
        sum += from[line * stride + (first + k) * step] * of[k];
      }
      to[line * toStride + at * toStep] = Math.min(sum >> 22, 255);
    });
  }
  return to;
}

// Cut the centre to the network's proportions and scale it, as Pillow's `ImageOps.fit`
// does with bilinear filters: to the bit, so that the network says what `predict` does.
function fitted(plane, height, width) {
  if (height === HEIGHT && width === WIDTH) return plane;
  const ratio = WIDTH / HEIGHT;
  const wide = width / height >= ratio;
  const cutWidth = wide ? ratio * height : width;
  const cutHeight = wide ? height : width / ratio;
  const left = (width - cutWidth) / 2;
  const top = (height - cutHeight) / 2;
  const columns = weights(width, left, left + cutWidth, WIDTH);
  const rows = weights(height, top, top + cutHeight, HEIGHT);
  const narrow = along(plane, columns, height, 1, width, 1, WIDTH);
  return along(narrow, rows, WIDTH, WIDTH, 1, WIDTH, 1);
}

// Bring RGBA pixels to the network's channels and size.
function prepared({ data, width, height }) {
  const pixels = new Uint8Array(HEIGHT * WIDTH * CHANNELS);
  for (let c = 0; c < CHANNELS; c += 1) {
    const plane = new Uint8Array(width * height);
    for (let i = 0; i < plane.length; i += 1) {
      plane[i] = CHANNELS === 3 ? data[4 * i + c] : Math.round(
        0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2],
      );
    }
    fitted(plane, height, width).forEach((value, i) => {
      pixels[i * CHANNELS + c] = value;
    });
  }
  return pixels;
}

// Draw what a canvas can draw, on white where it is transparent, and read the pixels.
function read(picture, width, height) {
  // Phones refuse canvases of more than 16 million pixels.
  const scale = Math.min(Math.sqrt(2 ** 24 / (width * height)), 1);
  const canvas = made("canvas", {
    width: Math.floor(width * scale), height: Math.floor(height * scale),
  });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// The pixels as a picture on a canvas of their size; `shade` may change a pixel's colour.
function paint(canvas, pixels, shade = (rgb) => rgb) {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const image = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < HEIGHT * WIDTH; i += 1) {
    const at = (c) => pixels[i * CHANNELS + (CHANNELS === 3 ? c : 0)];
    image.data.set([...shade([at(0), at(1), at(2)], i), 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// How an image differs from those that the network was trained on.
function unlike(pixels) {
  const light = Array.from({ length: HEIGHT * WIDTH }, (_, i) => (
    pixels.subarray(i * CHANNELS, (i + 1) * CHANNELS).reduce((a, b) => a + b) / CHANNELS
  ));
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const brightness = mean(light);
  const measured = {
    border: mean(light.filter((_, i) => onEdge(i))),
    brightness,
    contrast: Math.sqrt(mean(light.map((v) => (v - brightness) ** 2))),
  };
  return Object.entries(page.usual).flatMap(([name, [low, high]]) => {
    const value = Math.round(10 * measured[name]) / 10;
    return value < low ? [page.said[name][0]] : value > high ? [page.said[name][1]] : [];
  });
}

function onEdge(i) {
  const [row, column] = [Math.floor(i / WIDTH), i % WIDTH];
  return row % (HEIGHT - 1) === 0 || column % (WIDTH - 1) === 0;
}

// The network.

let session;
let running = Promise.resolve();

async function unpacked(id) {
  const element = byId(id);
  const text = atob(element.textContent);
  element.remove();
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const { env, InferenceSession } = onnxruntime;
  env.logLevel = "error";
  env.wasm.numThreads = 1; // more need a server that isolates the page
  env.wasm.wasmBinary = (await unpacked("runtime")).buffer;
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
  session = await InferenceSession.create(await unpacked("network"), options);
}

// Run the network on images, one call after the other; `outputs` beside the logits.
function run(images, outputs = []) {
  const data = new Uint8Array(images.length * HEIGHT * WIDTH * CHANNELS);
  images.forEach((image, n) => data.set(image, n * image.length));
  const shape = [images.length, HEIGHT, WIDTH, CHANNELS];
  const image = new onnxruntime.Tensor("uint8", data, shape);
  const turn = running.then(() => session.run({ image }, ["logits", ...outputs]));
  running = turn.catch(() => {});
  return turn;
}

function rowsOf(logits) {
  const [count, size] = logits.dims;
  return Array.from({ length: count }, (_, n) => (
    [...logits.data.subarray(n * size, (n + 1) * size)]
  ));
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((each) => Math.exp(each - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((each) => each / sum);
}

// How sure the network is of a class, without an end: the logarithm of its odds.
function logOdds(logits, index) {
  const most = Math.max(...logits);
  const others = logits.reduce((sum, each, n) => (
    n === index ? sum : sum + Math.exp(each - most)
  ), 0);
  return logits[index] - most - Math.log(others);
}

// The answer.

let current; // the image that is shown
let shown; // its pixels, inverted where the switch says so
let answer; // { logits, probabilities, best }
let chosen; // the class that the panels below are about
let covered; // what the occlusion map is made of

// Show an image and what the network says of it; `whole` with everything below.
async function show(image, whole = true) {
  current = image;
  const invert = byId("invert").checked;
  const pixels = invert ? image.pixels.map((v) => 255 - v) : image.pixels;
  shown = pixels;
  covered = undefined;
  paint(byId("seen"), pixels);
  byId("seen").setAttribute("aria-label", `What the network sees of ${image.says}`);
  byId("seen-says").textContent = `${WIDTH} × ${HEIGHT} pixels`
    + (CHANNELS === 1 ? ", grey" : "") + (image.cut ? `, ${image.cut}` : "");
  document.querySelectorAll(".sample").forEach((each) => {
    each.setAttribute("aria-pressed", String(each === image.button));
  });
  if (!session) return;
  const outputs = whole ? page.stages.map((stage) => stage.output) : [];
  const found = await run([pixels], outputs);
  if (shown !== pixels) return;
  const [logits] = rowsOf(found.logits);
  const probabilities = softmax(logits);
  const best = probabilities.indexOf(Math.max(...probabilities));
  answer = { logits, probabilities, best };
  chosen = best;
  showAnswer(whole);
  if (!whole) return;
  showMaps(found);
  await pause();
  await cover(pixels);
}

function showAnswer(whole) {
  const { probabilities, best } = answer;
  const sure = probabilities[best];
  byId("state").hidden = true;
  byId("answer").hidden = false;
  byId("choose").hidden = false;
  byId("answer").querySelector("b").textContent = classes[best];
  const value = byId("answer").querySelector("data");
  value.value = String(sure);
  value.textContent = percent(sure);
  const { truth } = current;
  byId("truth").replaceChildren(...truth === undefined ? [] : [
    "In truth: ", made("b", { textContent: classes[truth] }),
    truth === best ? ". Right." : ". Wrong.",
  ]);
  const reasons = unlike(shown);
  byId("unlike").hidden = reasons.length === 0;
  const other = unlike(shown.map((v) => 255 - v)).length === 0;
  byId("unlike").textContent = `Unlike the images that it was trained on: ${
    reasons.join(", ")}. Do not rely on the answer.${
    other ? " “Invert bright and dark” makes the picture like them." : ""}`;
  const order = [...probabilities.keys()].sort((a, b) => (
    probabilities[b] - probabilities[a]
  ));
  showBars(classes.length > SHOWN ? order.slice(0, SHOWN) : [...classes.keys()]);
  showChosen();
  if (!whole) return;
  const [first, second] = order;
  byId("said").textContent = `${classes[first]}, ${percent(probabilities[first])}; then ${
    classes[second]}, ${percent(probabilities[second])}`
    + (reasons.length ? ". Unlike the training images" : "");
}

function bar(share) {
  const inside = made("i");
  inside.style.width = `${100 * share}%`;
  return made("span", { className: "rail" }, inside);
}

function showBars(indices) {
  const bars = byId("bars");
  while (bars.children.length < indices.length) {
    const button = made(
      "button", { type: "button" }, made("span"), bar(0), made("data"),
    );
    button.addEventListener("click", () => {
      chosen = Number(button.dataset.index);
      showChosen();
    });
    bars.append(made("li", {}, button));
  }
  indices.forEach((index, n) => {
    const button = bars.children[n].firstChild;
    const [name, rail, value] = button.children;
    const share = answer.probabilities[index];
    button.dataset.index = index;
    button.classList.toggle("best", index === answer.best);
    name.textContent = classes[index];
    rail.firstChild.style.width = `${100 * share}%`;
    value.value = String(share);
    value.textContent = percent(share);
  });
}

// The panels that are about one class.
function showChosen() {
  byId("bars").querySelectorAll("button").forEach((each) => {
    each.setAttribute("aria-pressed", String(Number(each.dataset.index) === chosen));
  });
  document.querySelectorAll(".chosen").forEach((each) => {
    each.textContent = classes[chosen];
  });
  showHeat();
  showTallies();
}

// What the network said of images whose class is known.
function showTallies() {
  const called = page.matrix.map((row) => row[chosen]);
  const known = page.matrix[chosen] ?? [];
  const name = made("b", { textContent: classes[chosen] });
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  byId("called").replaceChildren(
    `It called ${sum(called).toLocaleString("en")} images `, name, ". They were:",
  );
  byId("known").replaceChildren(
    `Of ${sum(known).toLocaleString("en")} images that are `, name.cloneNode(true),
    " it said:",
  );
  tally(byId("called-bars"), called, sum(called));
  tally(byId("known-bars"), known, sum(known));
}

function tally(list, counts, of) {
  const order = [...counts.keys()].filter((n) => counts[n]);
  order.sort((a, b) => (b === chosen) - (a === chosen) || counts[b] - counts[a]);
  list.replaceChildren(...order.slice(0, 5).map((n) => made(
    "li", { className: n === chosen ? "right" : "" },
    made("span", { textContent: classes[n] }), bar(counts[n] / of),
    made("data", {
      value: String(counts[n]), textContent: `${counts[n]}, ${percent(counts[n] / of)}`,
    }),
  )));
}

// The occlusion map: squares that cover a place, and what the network says then.

const SQUARE = Math.max(Math.round(Math.min(HEIGHT, WIDTH) / 4), 1);
const PLACES = 7; // along each side
const startsOf = (size) => Array.from({ length: PLACES }, (_, n) => (
  Math.round((n * (size - SQUARE)) / (PLACES - 1))
));
const ROWS = startsOf(HEIGHT);
const COLUMNS = startsOf(WIDTH);

// The middle of the edge's values, for each channel.
function edgeColour(pixels) {
  return Array.from({ length: CHANNELS }, (_, c) => {
    const values = pixels.filter((_, i) => (
      i % CHANNELS === c && onEdge(Math.floor(i / CHANNELS))
    ));
    return values.sort()[values.length >> 1];
  });
}

function withSquare(pixels, row, column, colour) {
  const result = pixels.slice();
  for (let y = row; y < row + SQUARE; y += 1) {
    for (let x = column; x < column + SQUARE; x += 1) {
      result.set(colour, (y * WIDTH + x) * CHANNELS);
    }
  }
  return result;
}

async function cover(pixels) {
  const colour = edgeColour(pixels);
  const images = ROWS.flatMap((row) => (
    COLUMNS.map((column) => withSquare(pixels, row, column, colour))
  ));
  const rows = [];
  while (rows.length < images.length) {
    const found = await run(images.slice(rows.length, rows.length + PLACES));
    if (shown !== pixels) return;
    rows.push(...rowsOf(found.logits));
    byId("heat-says").textContent = `${rows.length} of ${images.length} places covered`;
    await pause();
  }
  covered = { rows, at: undefined };
  showHeat();
}

function showHeat() {
  const canvas = byId("heat");
  byId("heat-at").textContent = "";
  if (!covered) {
    paint(canvas, shown, grey);
    canvas.setAttribute("aria-label", "The map is being computed");
    return;
  }
  const sure = logOdds(answer.logits, chosen);
  const losses = covered.rows.map((row) => sure - logOdds(row, chosen));
  const [sums, counts] = [new Float64Array(HEIGHT * WIDTH), new Float64Array(HEIGHT * WIDTH)];
  losses.forEach((loss, n) => {
    const [row, column] = [ROWS[Math.floor(n / PLACES)], COLUMNS[n % PLACES]];
    for (let y = row; y < row + SQUARE; y += 1) {
      for (let x = column; x < column + SQUARE; x += 1) {
        sums[y * WIDTH + x] += loss;
        counts[y * WIDTH + x] += 1;
      }
    }
  });
  const heat = sums.map((sum, i) => sum / counts[i]);
  const most = Math.max(...heat.map(Math.abs), 0.5);
  paint(canvas, shown, (rgb, i) => {
    const light = grey(rgb)[0];
    const strength = 0.85 * Math.min(Math.abs(heat[i]) / most, 1);
    const end = heat[i] > 0 ? [239, 138, 43] : [43, 131, 196];
    return end.map((v) => v * strength + (0.25 * 128 + 0.75 * light) * (1 - strength));
  });
  covered.painted = canvas.getContext("2d").getImageData(0, 0, WIDTH, HEIGHT);
  const worst = losses.indexOf(Math.max(...losses));
  const left = softmax(covered.rows[worst]);
  byId("heat-says").textContent = losses[worst] <= 0
    ? `Nothing in the picture speaks for ${classes[chosen]}: wherever it is covered, the `
      + "network is surer of it."
    : `The place that matters most is ${placeOf(worst)}: with it covered, ${
      classes[chosen]} has ${percent(left[chosen])} instead of ${
      percent(answer.probabilities[chosen])}.`;
  canvas.setAttribute("aria-label", `Occlusion map for ${classes[chosen]}`);
}

const grey = ([r, g, b]) => Array(3).fill(0.299 * r + 0.587 * g + 0.114 * b);

function placeOf(n) {
  const third = (at, names) => names[Math.min(Math.floor((3 * at) / PLACES), 2)];
  const row = third(Math.floor(n / PLACES), ["at the top", "in the middle", "at the bottom"]);
  const column = third(n % PLACES, [" left", "", " right"]);
  return row + column;
}

// Say what the network says with one place covered.
function probe(n) {
  if (!covered?.painted) return;
  covered.at = n;
  const [row, column] = [ROWS[Math.floor(n / PLACES)], COLUMNS[n % PLACES]];
  const context = byId("heat").getContext("2d");
  context.putImageData(covered.painted, 0, 0);
  const colour = edgeColour(shown);
  context.fillStyle = `rgb(${[0, 1, 2].map((c) => colour[CHANNELS === 3 ? c : 0])})`;
  context.fillRect(column, row, SQUARE, SQUARE);
  context.strokeStyle = "#fff";
  context.strokeRect(column + 0.5, row + 0.5, SQUARE - 1, SQUARE - 1);
  const probabilities = softmax(covered.rows[n]);
  const best = probabilities.indexOf(Math.max(...probabilities));
  byId("heat-at").textContent = `Covered ${placeOf(n)}: ${classes[chosen]} ${
    percent(probabilities[chosen])}${best === chosen ? "" : `; the answer is then ${
    classes[best]}, ${percent(probabilities[best])}`}.`;
}

function unprobe() {
  if (!covered?.painted) return;
  covered.at = undefined;
  byId("heat").getContext("2d").putImageData(covered.painted, 0, 0);
  byId("heat-at").textContent = "";
}

function listenToHeat() {
  const canvas = byId("heat");
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (share) => Math.max(0, Math.min(Math.floor(share * PLACES), PLACES - 1));
    const row = at((event.clientY - box.top) / box.height);
    probe(row * PLACES + at((event.clientX - box.left) / box.width));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", unprobe);
  canvas.addEventListener("blur", unprobe);
  canvas.addEventListener("keydown", (event) => {
    const moves = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const at = covered?.at;
    if (at === undefined) {
      probe(PLACES * (PLACES >> 1) + (PLACES >> 1));
      return;
    }
    const inside = (value) => Math.max(0, Math.min(value, PLACES - 1));
    const [down, right] = moves[event.key];
    const row = inside(Math.floor(at / PLACES) + down);
    probe(row * PLACES + inside((at % PLACES) + right));
  });
}

// Feature maps, a canvas for each stage.

const FEW = 8;
const TILE = 96;
const GAP = 6;
const whole = new Set(); // the stages of which all maps are shown
let maps;

function listStages() {
  page.stages.forEach((stage, n) => {
    const all = made("button", { type: "button", className: "way" });
    all.addEventListener("click", () => {
      if (!whole.delete(n)) whole.add(n);
      drawStage(n);
    });
    all.hidden = stage.maps <= FEW;
    const canvas = made("canvas");
    canvas.setAttribute("role", "img");
    byId("stages").append(made(
      "section", { className: "stage" }, made("h3", { textContent: stage.says }),
      made("p", { textContent: `${stage.maps} maps of ${stage.width} × ${stage.height}` }),
      canvas, all,
    ));
  });
}

function showMaps(found) {
  maps = page.stages.map((stage) => {
    const { data } = found[stage.output];
    const size = stage.height * stage.width;
    const each = Array.from({ length: stage.maps }, (_, n) => {
      const values = data.slice(n * size, (n + 1) * size);
      const mean = values.reduce((a, b) => a + b, 0) / size;
      const spread = values.reduce((a, v) => a + (v - mean) ** 2, 0);
      return { values, spread };
    });
    return each.sort((a, b) => b.spread - a.spread).map(({ values }) => values);
  });
  maps.forEach((_, n) => drawStage(n));
}

// The most active maps of a stage, or all, each over its own range.
function drawStage(n) {
  const stage = page.stages[n];
  const section = byId("stages").children[n];
  const [canvas, button] = [section.querySelector("canvas"), section.querySelector("button")];
  const narrow = matchMedia("(max-width: 620px)").matches;
  const few = narrow ? 5 : FEW;
  const columns = whole.has(n) ? 2 * few : few;
  const drawn = whole.has(n) ? maps[n] : maps[n].slice(0, few);
  const tile = whole.has(n) ? TILE / 2 : TILE;
  canvas.width = columns * (tile + GAP) - GAP;
  canvas.height = Math.ceil(drawn.length / columns) * (tile + GAP) - GAP;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  const small = made("canvas", { width: stage.width, height: stage.height });
  drawn.forEach((values, k) => {
    const low = values.reduce((a, b) => Math.min(a, b));
    const span = values.reduce((a, b) => Math.max(a, b)) - low || 1;
    const image = new ImageData(stage.width, stage.height);
    values.forEach((value, i) => {
      const light = (255 * (value - low)) / span;
      image.data.set([light, light, light, 255], 4 * i);
    });
    small.getContext("2d").putImageData(image, 0, 0);
    const [row, column] = [Math.floor(k / columns), k % columns];
    context.drawImage(small, column * (tile + GAP), row * (tile + GAP), tile, tile);
  });
  canvas.setAttribute("aria-label", `${drawn.length} of ${stage.maps} maps of ${stage.says}`);
  button.textContent = whole.has(n) ? `The ${few} most active` : `All ${stage.maps}`;
  button.setAttribute("aria-expanded", String(whole.has(n)));
}

// Ways in: files, dropped and pasted pictures, test images, paper.

function fail(text) {
  byId("state").textContent = text;
  byId("state").classList.add("wrong");
  byId("state").hidden = false;
  byId("answer").hidden = true;
  byId("truth").textContent = "";
  byId("said").textContent = text;
}

async function take(file) {
  setDrawing(false);
  let picture;
  try {
    picture = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none",
    });
  } catch {
    fail(`This browser can’t read ${file.name} as a picture: save it as JPEG or PNG.`);
    return;
  }
  const { width, height } = picture;
  const pixels = prepared(read(picture, width, height));
  const same = width === WIDTH && height === HEIGHT;
  const cut = same ? "" : `the middle of ${width} × ${height}`;
  await show({ pixels, says: file.name || "the picture", cut });
}

function takeFirst(files) {
  const [file] = [...files].filter((each) => each.type.startsWith("image/"));
  if (file) take(file);
  else fail("That holds no picture: drop or paste a picture’s file.");
}

function listenToWays() {
  ["photo", "file"].forEach((id) => byId(id).addEventListener("change", (event) => {
    if (event.target.files.length) take(event.target.files[0]);
    event.target.value = "";
  }));
  addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFirst(event.dataTransfer.files);
  });
  byId("invert").addEventListener("change", () => current && show(current));
  document.querySelectorAll(".sample").forEach((button) => {
    button.addEventListener("click", () => {
      setDrawing(false);
      showSample(button);
    });
  });
}

async function showSample(button) {
  const picture = button.querySelector("img");
  await picture.decode();
  const pixels = prepared(read(picture, WIDTH, HEIGHT));
  byId("invert").checked = false;
  const truth = Number(button.dataset.truth);
  await show({ pixels, truth, button, says: `a test image, ${classes[truth]}` });
}

const COLOURS = CHANNELS === 1
  ? { white: "#ffffff", "light grey": "#aaaaaa", "dark grey": "#555555", black: "#000000" }
  : {
    black: "#1d1d1f", white: "#ffffff", grey: "#8b8f94", red: "#c0392b", orange: "#e28a2b",
    brown: "#7a4a24", green: "#4d7c3a", "dark blue": "#2b4f81", "light blue": "#9cc3e6",
  };
const GROUND = CHANNELS === 1 ? "#000000" : COLOURS["light blue"];
const PAPER = Math.max(Math.floor(384 / WIDTH), 1); // pixels of the paper in one

function setDrawing(on) {
  byId("draw").setAttribute("aria-pressed", String(on));
  document.querySelector(".try").classList.toggle("drawing", on);
  byId("paper").hidden = !on;
  byId("pens").hidden = !on;
}

function choices(id, name, entries, look) {
  byId(id).append(...entries.map(([label, value], n) => {
    const input = made("input", { type: "radio", name, value, checked: n === 0 });
    input.setAttribute("aria-label", label);
    const swatch = made("label", { className: "pen", title: label }, input);
    look(swatch, value);
    return swatch;
  }));
}

const picked = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function listenToPaper() {
  const paper = byId("paper");
  paper.width = WIDTH * PAPER;
  paper.height = HEIGHT * PAPER;
  const context = paper.getContext("2d", { willReadFrequently: true });
  choices("colours", "colour", Object.entries(COLOURS), (swatch, value) => {
    swatch.style.background = value;
  });
  const pens = { medium: 2.5, thin: 1.2, thick: 5 };
  choices("widths", "width", Object.entries(pens), (swatch, value) => {
    const dot = swatch.appendChild(made("i"));
    dot.style.width = `${4 * value + 4}px`;
    dot.style.height = dot.style.width;
  });
  const scaled = Math.min(HEIGHT, WIDTH) / 28;
  let last;
  let busy = false;
  const look = async (whole) => {
    if (busy && !whole) return;
    busy = true;
    const image = context.getImageData(0, 0, paper.width, paper.height);
    await show({ pixels: prepared(image), says: "your drawing" }, whole);
    busy = false;
  };
  const clear = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, paper.width, paper.height);
    look(true);
  };
  const at = (event) => {
    const box = paper.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * paper.width,
      ((event.clientY - box.top) / box.height) * paper.height,
    ];
  };
  const line = (event) => {
    const next = at(event);
    context.strokeStyle = picked("colour");
    context.lineWidth = picked("width") * scaled * PAPER;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
  };
  paper.addEventListener("pointerdown", (event) => {
    paper.setPointerCapture(event.pointerId);
    last = at(event);
    line(event);
  });
  paper.addEventListener("pointermove", (event) => {
    if (!last) return;
    line(event);
    look(false);
  });
  ["pointerup", "pointercancel"].forEach((kind) => paper.addEventListener(kind, () => {
    if (last) look(true);
    last = undefined;
  }));
  byId("clear").addEventListener("click", () => clear(picked("colour")));
  let drawn = false;
  byId("draw").addEventListener("click", () => {
    const on = byId("paper").hidden;
    setDrawing(on);
    if (!on) return;
    byId("invert").checked = false;
    if (drawn) look(true);
    else clear(GROUND);
    drawn = true;
  });
}

async function begin() {
  if (byId("stages")) listStages();
  listenToWays();
  listenToHeat();
  listenToPaper();
  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") {
    fail("The network can’t run here: WebAssembly is off in this browser, or the browser "
      + "is of before 2023.");
    return;
  }
  await pause();
  try {
    await start();
  } catch (error) {
    fail(`The network can’t run here: WebAssembly is off in this browser, or there is too `
      + `little memory (${error.message}).`);
    return;
  }
  byId("state").textContent = "Show it a picture.";
  const first = document.querySelector(".sample");
  if (current) await show(current);
  else if (first) await showSample(first);
}

begin();
