"use strict";
const part = (name) => document.getElementById(name);
let picture = null;

function show(file) {
  picture = file && file.type.startsWith("image/") ? file : null;
  part("said").textContent = file && !picture ? "This file is not a picture." : "";
  const hint = part("hint");
  hint.replaceChildren(picture ? document.createElement("img") : "Choose, take, drop or paste a picture");
  if (picture) {
    const shown = hint.firstChild;
    shown.alt = `The chosen picture: ${picture.name}`;
    shown.onload = () => URL.revokeObjectURL(shown.src);
    shown.onerror = () => hint.replaceChildren(picture.name);
    shown.src = URL.createObjectURL(picture);
  }
}

async function ask(event) {
  event.preventDefault();
  const words = part("text").value.trim();
  if (!picture && !words) {
    part("said").textContent = "Choose a picture, or type some words.";
    return;
  }
  const body = new FormData();
  if (picture) body.append("image", picture);
  body.append("text", words);
  const token = part("token").value;
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  part("ask").disabled = true;
  part("ask").textContent = "Asking ...";
  part("said").textContent = "";
  try {
    const answer = await fetch("v1/explain", { method: "POST", body, headers });
    if (answer.ok) {
      part("answer").innerHTML = await answer.text();
    } else {
      if (answer.status === 401) part("locked").hidden = false;
      const { error } = await answer.json();
      part("said").textContent = answer.status === 401 ? "This server asks for a token." : error;
    }
  } catch {
    part("said").textContent = "The server does not answer.";
  } finally {
    part("ask").disabled = false;
    part("ask").textContent = "Ask";
  }
}

part("form").addEventListener("submit", ask);
part("image").addEventListener("change", () => show(part("image").files[0]));
part("clear").addEventListener("click", () => {
  part("form").reset();
  show(null);
  part("answer").replaceChildren();
});
part("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) ask(event);
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    part("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => part("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  show(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) show(event.clipboardData.files[0]);
});
