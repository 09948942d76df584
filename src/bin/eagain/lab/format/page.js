const [group, verdict, words, count] = ["group", "verdict", "words", "count"].map((id) => document.getElementById(id));
const cards = [...document.querySelectorAll("details")];

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    const fits = (!group.value || card.dataset.group === group.value)
      && (!verdict.value || card.dataset.verdict === verdict.value)
      && wanted.every((word) => text.includes(word));
    card.hidden = !fits;
    shown += fits;
  }
  count.value = `${shown} of ${cards.length}`;
}

/** The next or previous card that is shown, from the one that has the focus. */
function step(by) {
  const shown = cards.filter((card) => !card.hidden);
  const at = shown.findIndex((card) => card.contains(document.activeElement));
  const next = shown[Math.min(Math.max(at + by, 0), shown.length - 1)];
  next?.querySelector("summary").focus();
}

for (const control of [group, verdict, words]) control.addEventListener("input", filter);
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.target === words || event.target.tagName === "SELECT") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") { event.preventDefault(); words.focus(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
addEventListener("hashchange", open);
function open() {
  const card = document.getElementById(location.hash.slice(1));
  if (card) { card.open = true; card.scrollIntoView(); }
}
filter();
open();
