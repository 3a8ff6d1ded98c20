// Landmarks in a web page, by ONNX Runtime Web and the file that `face-align export` has written.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need the headers of cross-origin isolation

const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
const input = document.getElementById("photo");
const status = document.getElementById("status");

let photo = null; // ImageBitmap
let corner = null; // where a box begins, pixels of the photo

/** RGB bytes of a photo, as the model wants them: (height, width, 3). */
function pixels() {
  context.drawImage(photo, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, photo.width, photo.height);
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return new ort.Tensor("uint8", rgb, [height, width, 3]);
}

/** Landmarks [[x, y], ...] of the face in a box [x0, y0, x1, y1], and how many iterations they took. */
async function align(session, box) {
  const boxes = new ort.Tensor("float32", Float32Array.from(box), [1, 4]);
  const { landmarks, iterations } = await session.run({ photo: pixels(), boxes });
  const points = [];
  for (let i = 0; i < landmarks.data.length; i += 2) points.push([landmarks.data[i], landmarks.data[i + 1]]);
  return { landmarks: points, iterations: Number(iterations.data[0]) };
}

function draw(box, points = []) {
  context.drawImage(photo, 0, 0);
  context.strokeStyle = "#f5a623";
  context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  context.fillStyle = "#2ecc71";
  const radius = Math.max(1, (box[2] - box[0]) / 100);
  for (const [x, y] of points) {
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, radius, 0, 2 * Math.PI); // a pixel's centre is at 0.5 on a canvas
    context.fill();
  }
}

/** Where the pointer is, in pixels of the photo. */
function place(event) {
  const seen = canvas.getBoundingClientRect();
  return [(event.clientX - seen.left) * (canvas.width / seen.width) - 0.5,
    (event.clientY - seen.top) * (canvas.height / seen.height) - 0.5];
}

function boxTo([x, y]) {
  return [Math.min(corner[0], x), Math.min(corner[1], y), Math.max(corner[0], x), Math.max(corner[1], y)];
}

const model = new URLSearchParams(location.search).get("model") ?? "300w-68.onnx";
try {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  status.textContent = "Ready.";
  input.disabled = false;
  input.addEventListener("change", async () => {
    try {
      photo = await createImageBitmap(input.files[0], { colorSpaceConversion: "none" });
    } catch {
      status.textContent = "This file is no picture that this browser can read.";
      return;
    }
    [canvas.width, canvas.height, canvas.hidden] = [photo.width, photo.height, false];
    context.drawImage(photo, 0, 0);
    status.textContent = "Drag a box over a face.";
  });
  canvas.addEventListener("pointerdown", (event) => { corner = place(event); });
  canvas.addEventListener("pointermove", (event) => { if (corner) draw(boxTo(place(event))); });
  canvas.addEventListener("pointerup", async (event) => {
    if (!corner) return;
    const box = boxTo(place(event));
    corner = null;
    if (box[2] - box[0] < 8 || box[3] - box[1] < 8) return;
    const before = performance.now();
    const { landmarks, iterations } = await align(session, box);
    const took = performance.now() - before;
    draw(box, landmarks);
    status.textContent = `${landmarks.length} landmarks, ${iterations} iterations, ${took.toFixed(0)} ms.`;
    canvas.dispatchEvent(new CustomEvent("aligned", { detail: { box, landmarks, iterations } }));
  });
} catch (error) {
  status.textContent = `The model '${model}' cannot be loaded (${error.message}). Make it: face-align export`;
}
