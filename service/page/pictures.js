// Files with pictures, made ready to be sent, and where they come from: dropped, pasted or chosen.

const TAKEN = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const SHRINK_BYTES = 6 * 2 ** 20; // a larger file is made smaller here: no network looks at more than a part of it
const SHRUNK_PIXELS = 2048;

// The content type to send a file with.
export function typeOf(file) {
  return TAKEN.includes(file.type) ? file.type : "application/octet-stream";
}

// The file itself, or a smaller picture of the same if it is large.
export async function prepared(file) {
  if (file.size <= SHRINK_BYTES) return file;
  try {
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, SHRUNK_PIXELS / Math.max(whole.width, whole.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(whole.width * scale));
    canvas.height = Math.max(1, Math.round(whole.height * scale));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob ? new File([blob], file.name, { type: "image/jpeg" }) : file;
  } catch {
    return file; // no picture that this browser knows: the service says what is wrong with it
  }
}

// onFiles(files) is called with what is dropped or pasted; onNothing() when something else is dropped.
export function takeFiles({ onFiles, onNothing }) {
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    onFiles([...event.clipboardData.files]);
  });
  let depth = 0;
  for (const [name, change] of /** @type {[string, number][]} */ ([
    ["dragenter", 1],
    ["dragleave", -1],
  ])) {
    document.addEventListener(name, (/** @type {any} */ event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      depth += change;
      document.body.classList.toggle("dragging", depth > 0);
    });
  }
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("dragging");
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onFiles(files);
    else onNothing();
  });
}
