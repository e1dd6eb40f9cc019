// One picture from the camera, if the browser offers one (it does so on localhost and over HTTPS only).

export const hasCamera = Boolean(navigator.mediaDevices?.getUserMedia);

export class Camera {
  #video;
  #stream = null;

  constructor(video) {
    this.#video = video;
    window.addEventListener("pagehide", () => this.stop());
  }

  // Throws a DOMException when there is none, or it may not be used.
  async start() {
    this.#stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } },
    });
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  // The square in the middle of what it sees now, which is what the page shows.
  shoot() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const side = Math.min(width, height);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    canvas
      .getContext("2d")
      .drawImage(this.#video, (width - side) / 2, (height - side) / 2, side, side, 0, 0, side, side);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => {
      track.stop();
    });
    this.#stream = null;
    this.#video.srcObject = null;
  }
}
