// A little convenience; without it nothing is missing. What is folded can be opened at once, to be printed or searched.
"use strict";
const folded = [...document.querySelectorAll("details")];
if (folded.length) {
  const button = document.createElement("button");
  const say = () => { button.textContent = folded.every((each) => each.open) ? "Fold all" : "Unfold all"; };
  button.type = "button";
  button.addEventListener("click", () => {
    const open = !folded.every((each) => each.open);
    for (const each of folded) each.open = open;
  });
  for (const each of folded) each.addEventListener("toggle", say);
  say();
  document.querySelector("nav").append(button);
}
