// The page's scripts follow each other in one block of a module, behind ONNX Runtime,
// which is `onnxruntime`. Three elements hold data: what the page knows (JSON), the
// network and the runtime (gzip, base64).

const page = JSON.parse(document.getElementById("page").textContent);
const [HEIGHT, WIDTH, CHANNELS] = page.shape;
const { classes } = page;
const SHOWN = 12; // classes that have a bar each; of more, the likeliest have
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;
const pause = () => new Promise((resolve) => { setTimeout(resolve); });

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

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
