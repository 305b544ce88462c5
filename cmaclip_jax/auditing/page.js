"use strict";
const part = (name) => document.getElementById(name);
const list = part("cards");
const cards = [...list.children];
const keyOf = (card) => JSON.stringify([card.dataset.id, card.dataset.task]);
const byKey = new Map(cards.map((card) => [keyOf(card), card]));
const place = `cmaclip audit ${list.dataset.audit}`;
const FILTERS = ["task", "label", "split", "state"];
const DECISIONS = { a: "accept", x: "keep", d: "unknown" };
const COLUMNS = ["table", "id", "task", "label", "decision", "new_label"];
const nameOf = (label) => label || "no label";
const WORDS = {
  accept: (card) => `accepted: ${nameOf(card.dataset.new)}`,
  keep: (card) => `kept: ${nameOf(card.dataset.label)}`,
  unknown: () => "don't know",
};
let current = cards[0];
// Every decision in the order in which it was made, as [key of the card, decision]. The last one
// about a card counts, and undoing takes away the last of all.
let made = remembered();

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem(place) || "[]");
    return kept.filter(([key, decision]) => byKey.has(key) && decision in WORDS);
  } catch {
    return [];
  }
}

function remember() {
  try {
    localStorage.setItem(place, JSON.stringify(made));
  } catch {
    part("trouble").textContent =
      "This browser keeps nothing for this page. Save the decisions before you close it.";
  }
}

function paint() {
  const decided = new Map(made);
  for (const card of cards) {
    const decision = decided.get(keyOf(card));
    if (decision) card.dataset.decision = decision;
    else delete card.dataset.decision;
    part(`${card.id}-state`).textContent = decision ? WORDS[decision](card) : "";
    for (const button of card.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
  }
  const count = (number) => number.toLocaleString("en");
  let text = `${count(decided.size)} of ${count(cards.length)} decided`;
  const shown = cards.filter((card) => !card.hidden);
  if (shown.length < cards.length) text += `, ${count(shown.length)} shown`;
  part("counter").textContent = text;
  part("undo").disabled = !made.length;
  part("save").disabled = !made.length;
}

// The first option of every filter is "all".
function isWanted(card) {
  return FILTERS.every((name) => {
    const option = part(`by-${name}`).selectedOptions[0];
    if (option.index === 0) return true;
    if (name === "state") return (option.value === "decided") === "decision" in card.dataset;
    if (name === "label" && option.parentElement.label !== card.dataset.task) return false;
    return card.dataset[name] === option.value;
  });
}

function filter() {
  const { selectedIndex, value } = part("by-task");
  for (const group of part("by-label").querySelectorAll("optgroup")) {
    group.hidden = group.disabled = selectedIndex > 0 && group.label !== value;
    if (group.disabled && group.querySelector(":checked")) part("by-label").selectedIndex = 0;
  }
  for (const card of cards) card.hidden = !isWanted(card);
  const first = cards.find((card) => !card.hidden);
  part("none").hidden = Boolean(first);
  if (first && current.hidden) mark(first);
  paint();
}

// Only the marked card is reached by the tab key, with its buttons.
function mark(card) {
  current.tabIndex = -1;
  current = card;
  current.tabIndex = 0;
}

function go(card) {
  if (!card) return;
  mark(card);
  card.focus();
}

function neighbour(step, wanted = () => true) {
  for (let at = cards.indexOf(current) + step; at in cards; at += step) {
    if (!cards[at].hidden && wanted(cards[at])) return cards[at];
  }
  return null;
}

function move(step) {
  const on = list.contains(document.activeElement) && !current.hidden;
  go(on ? neighbour(step) || current : cards.find((card) => !card.hidden));
}

function decide(card, decision) {
  made.push([keyOf(card), decision]);
  remember();
  paint();
  part("said").textContent = `${WORDS[decision](card)}. ${part("counter").textContent}`;
  mark(card);
  const next = neighbour(1, (other) => !("decision" in other.dataset)) || neighbour(1);
  if (!isWanted(card) && next) {
    card.hidden = true;
    paint();
  }
  go(next || card);
}

function undo() {
  const last = made.pop();
  if (!last) return;
  const card = byKey.get(last[0]);
  remember();
  paint();
  card.hidden = !isWanted(card);
  if (card.hidden) {
    for (const name of FILTERS) part(`by-${name}`).selectedIndex = 0;
    filter();
  }
  part("said").textContent = `undone. ${part("counter").textContent}`;
  go(card);
}

function cell(text) {
  return /[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function decisionsFile() {
  const rows = [...new Map(made)].map(([key, decision]) => {
    const { id, task, label, new: suggestion } = byKey.get(key).dataset;
    const newLabel = decision === "accept" ? suggestion : "";
    return [list.dataset.table, id, task, label, decision, newLabel];
  });
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([decisionsFile()], { type: "text/csv" }));
  link.download = "decisions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  part("said").textContent = "decisions.csv is saved among the downloads.";
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = document.activeElement;
  if (at !== document.body && !list.contains(at)) return;
  const on = list.contains(at) && !current.hidden;
  if (event.key === "ArrowDown" || event.key === "j") move(1);
  else if (event.key === "ArrowUp" || event.key === "k") move(-1);
  else if (event.key === "u") undo();
  else if (on && event.key in DECISIONS) decide(current, DECISIONS[event.key]);
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", onKey);
list.addEventListener("focusin", (event) => {
  const card = event.target.closest(".suspect");
  if (card) mark(card);
});
list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const card = event.target.closest(".suspect");
  if (button) decide(card, button.dataset.decision);
});
part("undo").addEventListener("click", undo);
part("save").addEventListener("click", save);
for (const name of FILTERS) part(`by-${name}`).addEventListener("change", filter);
filter();
