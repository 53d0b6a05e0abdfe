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
