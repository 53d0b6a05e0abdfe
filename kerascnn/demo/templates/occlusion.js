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
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") unprobe(); // a finger leaves when it is lifted
  });
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
