// A sheet to draw on, by pointer or by keys. Knows nothing about networks; a stroke is a list of points in 0..1.

const INK = 0.085; // a stroke's width, as a share of the sheet: about that of MNIST's pens once it is cropped
const PICTURE_PIXELS = 280;
const STEP = 0.025;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #element;
  #canvas;
  #onChange;
  #strokes = [];
  #undo = []; // earlier values of #strokes, which is never changed in place but by the stroke being drawn
  #pointer = null;
  #pen = null; // the keyboard's pen: {x, y, down}, once it has been used
  #frame = 0;

  constructor(element, canvas, onChange) {
    this.#element = element;
    this.#canvas = canvas;
    this.#onChange = onChange;
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(end, (event) => this.#up(event));
    }
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("blur", () => this.#dropPen());
    new ResizeObserver(() => this.redraw()).observe(element);
  }

  get blank() {
    return this.#strokes.length === 0;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  undo() {
    if (!this.canUndo) return;
    this.#lift();
    this.#strokes = this.#undo.pop();
    this.#changed();
  }

  clear() {
    if (this.blank) return;
    this.#lift();
    this.#undo.push(this.#strokes);
    this.#strokes = [];
    this.#changed();
  }

  // Puts a drawing in place of what is there; undo brings that back.
  replace(strokes) {
    this.#lift();
    this.#undo.push(this.#strokes);
    this.#strokes = strokes;
    this.#changed();
  }

  // The drawing as a PNG, dark on light whatever the colours on the screen are.
  png() {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = PICTURE_PIXELS;
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, PICTURE_PIXELS, PICTURE_PIXELS);
    paint(context, this.#strokes, PICTURE_PIXELS, "#000");
    return new Promise((resolve, reject) => {
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the drawing did not encode"))), "image/png");
    });
  }

  redraw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      const side = Math.round(this.#element.clientWidth * devicePixelRatio);
      if (!side) return;
      const canvas = this.#canvas;
      if (canvas.width !== side) canvas.width = canvas.height = side;
      const context = canvas.getContext("2d");
      const style = getComputedStyle(this.#element);
      context.clearRect(0, 0, side, side);
      paint(context, this.#strokes, side, style.color);
      if (this.#pen) this.#paintPen(context, side, style.caretColor);
    });
  }

  #paintPen(context, side, colour) {
    const { x, y, down } = this.#pen;
    context.beginPath();
    context.arc(x * side, y * side, (INK * side) / 2 + 3 * devicePixelRatio, 0, 2 * Math.PI);
    context.lineWidth = (down ? 4 : 2) * devicePixelRatio;
    context.strokeStyle = colour;
    context.stroke();
  }

  #changed() {
    this.#element.dataset.blank = String(this.blank);
    this.redraw();
    this.#onChange();
  }

  #begin(point) {
    this.#undo.push(this.#strokes);
    this.#strokes = [...this.#strokes, [point]];
    this.#changed();
  }

  #extend(points) {
    this.#strokes.at(-1).push(...points);
    this.#changed();
  }

  #lift() {
    this.#pointer = null;
    if (this.#pen) this.#pen.down = false;
  }

  // By pointer

  #point(event) {
    const box = this.#element.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  }

  #down(event) {
    if (this.#pointer !== null || !event.isPrimary || event.button !== 0) return;
    this.#dropPen();
    this.#element.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#begin(this.#point(event));
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.#extend((events.length ? events : [event]).map((each) => this.#point(each)));
  }

  #up(event) {
    if (event.pointerId === this.#pointer) this.#pointer = null;
  }

  // By keys

  #dropPen() {
    this.#pen = null;
    this.redraw();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) this.#movePen(ARROWS[event.key], event.shiftKey ? 4 * STEP : STEP);
    else if (event.key === " ") this.#togglePen();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  #movePen([dx, dy], step) {
    this.#pen ??= { x: 0.5, y: 0.5, down: false };
    const pen = this.#pen;
    pen.x = Math.min(1 - INK / 2, Math.max(INK / 2, pen.x + dx * step));
    pen.y = Math.min(1 - INK / 2, Math.max(INK / 2, pen.y + dy * step));
    if (pen.down) this.#extend([{ x: pen.x, y: pen.y }]);
    else this.redraw();
  }

  #togglePen() {
    this.#pen ??= { x: 0.5, y: 0.5, down: false };
    const pen = this.#pen;
    pen.down = !pen.down;
    if (pen.down) this.#begin({ x: pen.x, y: pen.y });
    else this.redraw();
  }
}

// Draws strokes in a square of `side` pixels. Curves through the segments' middles hide that a mouse reports few points.
export function paint(context, strokes, side, ink) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = INK * side;
  context.strokeStyle = ink;
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0].x * side, stroke[0].y * side);
    for (let i = 1; i < stroke.length - 1; i++) {
      const [here, next] = [stroke[i], stroke[i + 1]];
      context.quadraticCurveTo(
        here.x * side,
        here.y * side,
        ((here.x + next.x) / 2) * side,
        ((here.y + next.y) / 2) * side,
      );
    }
    const last = stroke.at(-1);
    context.lineTo(last.x * side, last.y * side);
    context.stroke();
  }
}
