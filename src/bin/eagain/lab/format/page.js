const form = document.querySelector("form");
const { group, verdict, words, every } = form.elements;
const cards = [...document.querySelectorAll("details")];
const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
const shown = () => cards.filter((card) => !card.hidden);

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  for (const card of cards) {
    card.hidden = !((!group.value || card.dataset.group === group.value)
      && (!verdict.value || card.dataset.verdict === verdict.value)
      && wanted.every((word) => texts.get(card).includes(word)));
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = !section.querySelector("details:not([hidden])");
  }
  const count = shown().length;
  form.querySelector("output").value = `${count} of ${cards.length}`;
  document.getElementById("none").hidden = count > 0;
  label();
}

/** What the button would do. */
function label() {
  every.textContent = shown().every((card) => card.open) ? "Close all" : "Open all";
}

/** Goes to the next or previous card that is shown, from the one that has the focus. */
function step(by) {
  const among = shown();
  const at = among.findIndex((card) => card.contains(document.activeElement));
  const next = among[Math.min(Math.max(at + by, 0), among.length - 1)];
  next?.querySelector("summary").focus();
}

/** Opens the card that the address names. */
function open() {
  const card = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (card?.tagName === "DETAILS") { card.open = true; card.scrollIntoView(); card.querySelector("summary").focus(); }
}

/** What went wrong in a timeline is what one has come to see. */
function showWrong(card) {
  const wrong = card.open && card.querySelector(".wrong");
  const line = wrong?.parentElement;
  if (line) line.scrollLeft = wrong.offsetLeft + wrong.offsetWidth - line.clientWidth + 40;
}

form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
every.addEventListener("click", () => {
  const yes = !shown().every((card) => card.open);
  for (const card of shown()) card.open = yes;
  label();
});
document.addEventListener("toggle", ({ target }) => { label(); showWrong(target); }, true);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target === words || event.target === group) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") { event.preventDefault(); words.select(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
addEventListener("hashchange", open);
form.hidden = false;
filter();
cards.forEach(showWrong);
open();
