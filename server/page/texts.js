// @ts-check
/** Every text of the page that a script sets, in one table. */

/** @param {number} count @param {string} one @param {string} many */
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export const texts = {
  title: (/** @type {string} */ words) => (words ? `${words} – mmsearch` : "mmsearch"),
  ready: "Type what you are looking for, or drop a picture.",
  emptyIndex: "This index is empty. Put pictures into its folder and run: mmsearch index FOLDER",
  searching: "Searching …",
  stillSearching: "Still searching …",
  nothing: "Nothing found. Try other words, or another kind.",
  found: (/** @type {number} */ count, /** @type {boolean} */ next, /** @type {boolean} */ more) =>
    next ? `the best ${count.toLocaleString("en")} found, best first` : more
      ? `The best ${count.toLocaleString("en")} are shown, best first; narrow the search to see others`
      : `${count.toLocaleString("en")} found, best first`,
  milliseconds: (/** @type {number} */ value) => `${value.toFixed(0)} ms`,
  truncated: "these words are more than the model reads: only the first count",
  failed: (/** @type {string} */ why) => `That did not work: ${why}`,
  moreFailed: (/** @type {string} */ why) => `More results could not be had: ${why}`,
  again: "Try again",
  noServer: "the server does not answer; is it still running?",
  odd: (/** @type {number} */ status) => `the server answered ${status}`,
  busy: "The server is busy; trying again …",
  tooLong: (/** @type {number} */ most) => `A search has ${most.toLocaleString("en")} characters at most.`,
  refused: (/** @type {string} */ name, /** @type {string} */ why) => `${name}: ${why}`,
  goneFile: "the file is gone",
  unseen: (/** @type {string} */ name) => `${name} cannot be shown now`,
  unplayable: "This browser cannot play the file.",
  preview: "This browser cannot play the file itself; this is a preview of the moment.",
  relevance: (/** @type {string} */ word) => (word && word !== "by words" ? `${word} relevant` : word),
  byWords: "by words",
  // From which probability on each holds.
  relevances: /** @type {[number, string][]} */ ([[0.9, "very likely"], [0.7, "likely"], [0.4, "maybe"], [0, "unlikely"]]),
  copies: (/** @type {number} */ count) => plural(count, "copy", "copies"),
  position: (/** @type {number} */ number, /** @type {number} */ count) => `${number} of ${count}`,
  relevant: "Relevant", time: "Time", size: "Size", taken: "Taken", camera: "Camera", place: "Place", file: "File",
  copyOf: "Copy",
  rating: "Rating", words: "Words", stars: (/** @type {number} */ count) => plural(count, "star", "stars"),
  dateSource: /** @type {Record<string, string>} */ ({ exif: "camera", container: "camera", sidecar: "sidecar", takeout: "Google Takeout",
    name: "file name", file: "file changed" }),
  playFrom: (/** @type {string} */ time) => `Play from ${time}`,
  reading: "Reading …",
  searchFor: (/** @type {string} */ line) => `Search for ${line}`,
  folder: "Folder", similar: "Similar", sameDay: "Same day", samePlace: "Same place", sameDayPlace: "Same day, same place",
  captions: "Captions", recognised: "Text in the picture", transcript: "Transcript", allWords: "all words",
  region: "The part to search by. Arrows move it, with shift they change its size, Enter searches, Escape puts it away",
  why: "Why it matched", whyBack: "Back to the picture",
  whyAlt: (/** @type {string} */ word) => `Which parts of the picture “${word}” rests on`,
  rerank: "Read the best 50 again, words and pixels together",
  rerankIdle: "Re-ranking orders pictures by words, or texts by a picture",
  askFirst: "Type a question first.",
  nothingFits: "Nothing here answers that. Other words may find it:", searchInstead: (/** @type {string} */ words) => `Search for “${words}”`,
  evidence: (/** @type {number} */ count) => `What the answer rests on: ${plural(count, "picture", "pictures")}, with a caption by a model, which may be wrong.`,
  asking: "Reading what is there …",
  sending: "Sending the picture …",
  noPicture: "That is no picture to search by.",
  leftOut: (/** @type {number} */ count) =>
    `A search takes one picture: the first was taken, ${plural(count, "other file", "other files")} left out`,
  pictureLost: "The picture of this search is no longer at hand; give it again.",
  chips: { picture: "the picture you gave", like: "the picture it shall be like", unlike: "the picture it shall not be like" },
  without: (/** @type {string} */ what) => `Search without ${what}`,
  pictures: "pictures", videos: "videos", documents: "texts", holdsNothing: "The index is empty",
  noStatus: "The server does not answer. This page tries again by itself.",
  gone: (/** @type {string} */ what) => `${what} (gone)`,
  indexing: (/** @type {number} */ done, /** @type {number} */ total) => `Indexing ${done} of ${total}`,
  indexingStopped: (/** @type {string} */ why) => `Indexing stopped: ${why}`,
};
