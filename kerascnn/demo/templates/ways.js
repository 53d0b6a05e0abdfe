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
    black: "#1d1d1f", white: "#ffffff", grey: "#8b8f94", red: "#c0392b",
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
  const fill = (colour) => {
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
  byId("clear").addEventListener("click", () => fill(GROUND));
  byId("fill").addEventListener("click", () => fill(picked("colour")));
  let drawn = false;
  byId("draw").addEventListener("click", () => {
    const on = byId("paper").hidden;
    setDrawing(on);
    if (!on) return;
    byId("invert").checked = false;
    if (drawn) look(true);
    else fill(GROUND);
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
