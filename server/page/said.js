// @ts-check
/** The texts of the search line, the filters, the grid and the selection, in one table. */

/** @param {number} count @param {string} one @param {string} many */
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export const said = {
  placeholder: "Search by words, or drop a picture",
  edit: "Change",
  suggestions: "Suggestions",
  filters: /** @type {Record<string, string>} */ ({ after: "taken then or later", before: "taken before then", on: "taken in that year, month or day",
    in: "in a folder", name: "a part of the file's name", kind: "image, video or text", camera: "a part of the camera's name",
    near: "near a place", rating: "so many stars or more" }),
  recent: "searched before", saved: "saved",
  listed: (/** @type {number} */ count, /** @type {boolean} */ oldest) => `${count.toLocaleString("en")} found, ${oldest ? "oldest" : "newest"} first`,
  number: (/** @type {number} */ count) => count.toLocaleString("en"),
  photos: (/** @type {number} */ count) => plural(count, "item", "items"),
  named: (/** @type {string} */ name, /** @type {number} */ count) => `${name}, ${plural(count, "item", "items")}`,
  inside: (/** @type {string} */ name) => `Folders in ${name}`,
  around: (/** @type {number} */ count, /** @type {number} */ latitude, /** @type {number} */ longitude) =>
    `${plural(count, "item", "items")} near ${Math.abs(latitude).toFixed(2)}° ${latitude < 0 ? "south" : "north"}, ${Math.abs(longitude).toFixed(2)}° ${longitude < 0 ? "west" : "east"}`,
  dates: "Dates", folders: "Folders", cameras: "Cameras", places: "Places", kinds: "Kinds",
  kind: /** @type {Record<string, string>} */ ({ image: "Pictures", video: "Videos", text: "Texts" }),
  from: "From", to: "To", allDates: "All dates", world: "Everywhere", more: "Show all", noFacets: (/** @type {string} */ why) => `Not to be had: ${why}`,
  nothingLeft: "Nothing is left to narrow down.",
  try: "Try", remembered: "Searches", yours: "Your searches", exportLink: "Copy as a link", copied: "Copied", forget: "Forget what was searched",
  save: "Save this search", unsave: "Do not keep this search", howTo: "What a search can say",
  forms: /** @type {Record<string, string>} */ ({ after: "since then", on: "in that year, month or day", in: "in that folder", camera: "with that camera",
    near: "within 20 km", kind: "videos alone", words: "with these very words", without: "not like that" }),
  select: (/** @type {string} */ name) => `Select ${name}`,
  copiesOf: (/** @type {number} */ count, /** @type {string} */ name) => `Show ${plural(count, "copy", "copies")} of ${name}`,
  selected: (/** @type {number} */ count) => `${count.toLocaleString("en")} selected`,
  described: (/** @type {number} */ done, /** @type {number} */ of) => `Described ${done} of ${of}`,
  saving: "Making the file …", pathsCopied: (/** @type {number} */ count) => `${plural(count, "path", "paths")} copied`,
  failed: (/** @type {string} */ why) => `That did not work: ${why}`,
  sameKind: /** @type {Record<string, string>} */ ({ same: "The same file", near: "Nearly the same", stack: "One shot" }),
  noDuplicates: "There are no copies.", duplicates: "Copies, the best first. Nothing is deleted here.",
  bytes: (/** @type {number} */ size) => size < 1e6 ? `${Math.max(1, Math.round(size / 1000))} kB` : `${(size / 1e6).toFixed(1)} MB`,
  month: (/** @type {string} */ month) => new Date(`${month}-15`).toLocaleDateString("en", { year: "numeric", month: "short" }),
};
