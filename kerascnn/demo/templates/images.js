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
  // Pillow 13 begins with the rows of an image that is much higher than wide.
  const higher = height - HEIGHT;
  if (higher > 0 && higher > 2 * (width - WIDTH)) {
    const low = along(plane, rows, width, width, 1, width, 1);
    return along(low, columns, HEIGHT, 1, width, 1, WIDTH);
  }
  const narrow = along(plane, columns, height, 1, width, 1, WIDTH);
  return along(narrow, rows, WIDTH, WIDTH, 1, WIDTH, 1);
}

// The nearest whole number, the even one of two, as NumPy rounds.
const nearest = (value) => (value % 2 === 0.5 ? value - 0.5 : Math.round(value));

// Bring RGBA pixels to the network's channels and size.
function prepared({ data, width, height }) {
  const pixels = new Uint8Array(HEIGHT * WIDTH * CHANNELS);
  for (let c = 0; c < CHANNELS; c += 1) {
    const plane = new Uint8Array(width * height);
    for (let i = 0; i < plane.length; i += 1) {
      plane[i] = CHANNELS === 3 ? data[4 * i + c] : nearest(
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
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
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
