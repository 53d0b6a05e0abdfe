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
  showHeat();
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
