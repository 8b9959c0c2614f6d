"use strict";
// Turns the long list of tiles into a viewer: filters, order, blending, arrow keys. Without it the list stays as it is.
(() => {
  const tiles = [...document.querySelectorAll(".tile")].map((node) => ({
    node,
    name: node.querySelector("h3").textContent,
    classes: node.dataset.classes.split(" "),
    scores: JSON.parse(node.dataset.scores), // by system: [mean IoU, IoU of label 1, ..., 4], null where undefined
  }));
  if (!tiles.length) return;
  const find = (id) => document.getElementById(id);
  const [system, label, order, rock, blend] = ["system", "class", "order", "rock", "blend"].map(find);
  const [views, picks, caption] = ["views", "picks", "caption"].map(find);
  let shown = [];
  let current = null;

  const percent = (share) => (share === null ? "none" : `${(100 * share).toFixed(1)} %`);
  const score = (tile) => tile.scores[system.value][label.value];
  const mask = (tile, kind) => tile.node.querySelector(
    kind === "truth" ? `[data-kind="truth"]` : `[data-system="${system.value}"] [data-kind="${kind}"]`);

  function image(source, alt) {
    const copy = new Image();
    copy.src = source.src;
    copy.alt = alt ?? source.alt;
    return copy;
  }

  function stack(tile, kind) {
    const box = document.createElement("span");
    box.className = "stack";
    box.append(image(tile.node.querySelector(`[data-kind="tile"]`), ""), image(mask(tile, kind)));
    return box;
  }

  function select(tile) {
    current = tile;
    views.replaceChildren();
    for (const button of picks.children) {
      button.setAttribute("aria-current", button.tile === tile);
    }
    if (!tile) {
      caption.textContent = "No tile fits these filters.";
      return;
    }
    for (const kind of ["truth", "prediction", "error", "uncertainty"]) {
      const figure = document.createElement("figure");
      const text = document.createElement("figcaption");
      text.textContent = kind;
      figure.append(stack(tile, kind), text);
      views.append(figure);
    }
    const what = label.value === "0" ? "mean IoU" : `IoU of ${label.selectedOptions[0].text}`;
    caption.textContent = `${tile.name}: ${what} ${percent(score(tile))} (${shown.indexOf(tile) + 1} of ${shown.length})`;
  }

  function refresh() {
    const sign = order.value === "worst" ? 1 : -1;
    shown = tiles
      .filter((tile) => tile.scores[system.value] && score(tile) !== null)
      .filter((tile) => label.value === "0" || tile.classes.includes(label.value))
      .filter((tile) => !rock.checked || tile.classes.includes(rock.value))
      .sort((one, other) => sign * (score(one) - score(other)));
    picks.replaceChildren(...shown.map((tile) => {
      const button = document.createElement("button");
      button.type = "button";
      button.tile = tile;
      const box = stack(tile, "prediction");
      for (const picture of box.children) picture.alt = "";
      button.append(box, `${tile.name.replace("Tile ", "#")}  ${percent(score(tile))}`);
      button.addEventListener("click", () => select(tile));
      return button;
    }));
    select(shown.includes(current) ? current : shown[0]);
  }

  function step(by) {
    if (!shown.length) return;
    select(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
    const button = picks.querySelector(`[aria-current="true"]`);
    // Scrolls the strip alone: the page keeps the viewer in sight
    picks.scrollTop = button.offsetTop - (picks.clientHeight - button.offsetHeight) / 2;
  }

  for (const control of [system, label, order, rock]) control.addEventListener("change", refresh);
  blend.addEventListener("input", () => document.documentElement.style.setProperty("--blend", blend.value / 100));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    // The slider and the menus have their own use for arrows
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
    event.preventDefault();
    step(by);
  });
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  for (const part of document.querySelectorAll(".tools, .viewer")) part.hidden = false;
  document.documentElement.classList.add("scripted");
  refresh();
})();
