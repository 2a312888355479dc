// @ts-check
/** Pictures to search by that are pasted, dropped or chosen: made small, sent once, and named by their hash from then on. */

import { byId } from "./dom.js";
import { RESULT } from "./grid.js";
import { call, patiently } from "./requests.js";
import { texts } from "./texts.js";

// The server looks at no more than this; smaller files are sent as they are.
const SIDE = 768, SMALL = 300_000, QUALITY = 0.92;

export class Pictures {
  /** What this tab has sent, should the server forget it. @type {Map<string, Blob>} */
  #sent = new Map();

  /**
   * Send a picture; gives its hash. Throws as `call` does.
   * @param {Blob} file
   * @param {AbortSignal} signal
   * @param {() => void} busy
   * @returns {Promise<string>}
   */
  async send(file, signal, busy) {
    const small = await shrink(file);
    signal.throwIfAborted();
    return this.#post(small, signal, busy);
  }

  /**
   * Send again what the server has forgotten; false where this tab does not have it either.
   * @param {string} hash
   * @param {AbortSignal} signal
   */
  async sendAgain(hash, signal) {
    const blob = this.#sent.get(hash);
    if (!blob) return false;
    await this.#post(blob, signal, () => {});
    return true;
  }

  /** @param {Blob} blob @param {AbortSignal} signal @param {() => void} busy @returns {Promise<string>} */
  async #post(blob, signal, busy) {
    const form = new FormData();
    form.append("image", blob, "picture");
    const answer = await patiently(signal, () => call("/api/upload", signal, form), busy);
    this.#sent.set(answer.picture, blob);
    return answer.picture;
  }
}

/** A picture that is no larger than it needs to be; as it came where this browser cannot read it. @param {Blob} file @returns {Promise<Blob>} */
async function shrink(file) {
  if (file.size <= SMALL) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const pen = canvas.getContext("2d");
    if (!pen) return file;
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return await new Promise((resolve) => canvas.toBlob((blob) => resolve(blob ?? file), "image/jpeg", QUALITY));
  } catch {
    return file;
  }
}

/**
 * Hear of files that are pasted, dropped or chosen, and of results that are dragged onto the search box.
 * @param {(file: File, others: number) => void} take
 * @param {(id: string) => void} like
 * @param {(message: string) => void} refuse
 */
export function hearPictures(take, like, refuse) {
  const overlay = byId("drop", HTMLElement), box = byId("box", HTMLElement), chooser = byId("file", HTMLInputElement);
  const choose = (/** @type {FileList} */ list) => {
    // The type of a picture that the system does not know is empty; the server looks at what is inside.
    const picture = [...list].find((file) => file.type.startsWith("image/")) ?? [...list].find((file) => !file.type);
    if (picture) take(picture, list.length - 1);
    else refuse(texts.noPicture);
  };
  byId("pick", HTMLButtonElement).addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    if (chooser.files?.length) choose(chooser.files);
    chooser.value = "";
  });
  addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    if (!files?.length) return;
    event.preventDefault();
    choose(files);
  });
  const carries = (/** @type {DragEvent} */ event, /** @type {string} */ type) => event.dataTransfer?.types.includes(type) ?? false;
  const onBox = (/** @type {DragEvent} */ event) => event.target instanceof Node && box.contains(event.target);
  const rest = () => { overlay.hidden = true; box.classList.remove("target"); };
  addEventListener("dragstart", (event) => { if (carries(event, RESULT)) box.classList.add("target"); });
  addEventListener("dragend", rest);
  addEventListener("dragover", (event) => {
    if (carries(event, RESULT)) { if (onBox(event)) event.preventDefault(); return; }
    if (!carries(event, "Files")) return;
    event.preventDefault();
    // In a dialog all else is out of reach, the overlay as well.
    (document.querySelector("dialog:modal") ?? document.body).append(overlay);
    overlay.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) overlay.hidden = true; });
  addEventListener("drop", (event) => {
    const dragged = event.dataTransfer?.getData(RESULT), files = event.dataTransfer?.files;
    rest();
    if (dragged) {
      if (!onBox(event)) return;
      event.preventDefault();
      like(dragged);
    } else if (files?.length) {
      event.preventDefault();
      choose(files);
    }
  });
}
