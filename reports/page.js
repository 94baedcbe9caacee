"use strict";
(function () {
  // the page is whole without this script; it adds keys, order, hover, and unfolds what an address names
  var POWER = 0.6, LAST = 254;
  function all(what, within) { return Array.prototype.slice.call((within || document).querySelectorAll(what)); }
  function folds() { return all("details"); }
  function unfold(node) {
    for (; node; node = node.parentElement) { if (node.tagName === "DETAILS") { node.open = true; } }
  }
  function arrive() {
    var id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch (error) { return; }
    var target = id && document.getElementById(id);
    if (target) { unfold(target); target.scrollIntoView(); }
  }
  function step(by) {
    var items = all(".item").filter(function (item) { return item.getClientRects().length && !item.parentElement.closest("details:not([open])"); });
    var line = 90;
    var at = items.findIndex(function (item) { return item.getBoundingClientRect().top > line + (by > 0 ? 4 : -4); });
    if (at < 0) { at = items.length; }
    var next = items[by > 0 ? at : at - 1];
    if (next) { history.replaceState(null, "", "#" + next.id); next.scrollIntoView(); next.focus({ preventScroll: true }); }
  }
  addEventListener("hashchange", arrive);
  document.addEventListener("click", function (event) {
    var link = event.target.closest && event.target.closest("a[href^='#']");
    if (link && (link.getAttribute("href") || "") === location.hash) { arrive(); }
  });
  addEventListener("beforeprint", function () {  // tables of numbers, which are long, as the reader left them
    folds().forEach(function (fold) { if (!fold.classList.contains("numbers")) { fold.open = true; } });
  });
  addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { return; }
    if (event.key === "j") { step(1); }
    if (event.key === "k") { step(-1); }
    if (event.key === "g") { location.hash = "verdict"; arrive(); }
    if (event.key === "e") {
      var every = folds(), open = every.some(function (fold) { return !fold.open; });
      every.forEach(function (fold) { fold.open = open; });
    }
  });

  // tables that sort: by number where both are numbers, empty cells last
  all("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    all("thead th", table).forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button"; button.textContent = head.textContent; head.textContent = ""; head.append(button);
      button.addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") !== "ascending";
        all("th", table.tHead).forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var rows = Array.prototype.slice.call(body.rows);
        rows.sort(function (one, two) {
          var a = one.cells[column].textContent, b = two.cells[column].textContent;
          if (!a || !b) { return (a ? 0 : 1) - (b ? 0 : 1); }
          var by = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
          return up ? by : -by;
        });
        rows.forEach(function (row) { body.append(row); });
      });
    });
  });

  // a table that is filtered: rows that hold every word
  all("table.filtered").forEach(function (table) {
    var field = document.createElement("input");
    field.type = "search"; field.className = "filter"; field.placeholder = "filter, such as failing overfit";
    field.setAttribute("aria-label", "Filter rows");
    table.closest(".scroll").before(field);
    field.addEventListener("input", function () {
      var words = field.value.toLowerCase().split(/\s+/);
      all("tbody tr", table).forEach(function (row) {
        row.hidden = !words.every(function (word) { return row.textContent.toLowerCase().includes(word); });
      });
    });
  });

  // values of attention maps: a cell's transparency is its index, so the picture itself is read
  var island = document.getElementById("names"), told = document.getElementById("value");
  var names = island ? JSON.parse(island.textContent) : { lists: [], maps: {} };
  var read = new Map();
  function pixels(image) {
    if (!read.has(image)) {
      read.set(image, new Promise(function (resolve) {
        var picture = new Image();
        picture.onload = function () {
          var canvas = document.createElement("canvas"), wide = picture.naturalWidth, tall = picture.naturalHeight;
          canvas.width = wide; canvas.height = tall;
          var pen = canvas.getContext("2d", { willReadFrequently: true });
          pen.drawImage(picture, 0, 0);
          resolve({ wide: wide, tall: tall, data: pen.getImageData(0, 0, wide, tall).data });
        };
        picture.src = image.getAttribute("href");
      }));
    }
    return read.get(image);
  }
  function value(cells, row, column) {
    var index = cells.data[4 * (row * cells.wide + column) + 3];
    return index > LAST ? NaN : Math.pow(index / LAST, 1 / POWER);
  }
  function words(map, cells, row, column) {
    var figure = map.closest("[data-figure]").dataset.figure, lists = names.maps[figure] || [];
    var query = (names.lists[lists[0]] || [])[row], key = (names.lists[lists[1]] || [])[column];
    var number = value(cells, row, column);
    return (query === undefined ? row : query) + " → " + (key === undefined ? column : key) + ": " + (isNaN(number) ? "not finite" : "≈ " + number.toFixed(3));
  }
  function tell(map, cells, row, column, x, y) {
    told.textContent = words(map, cells, row, column);
    told.style.left = Math.max(4, Math.min(x + 14, innerWidth - told.offsetWidth - 8)) + "px";
    told.style.top = Math.max(4, Math.min(y + 16, innerHeight - 40)) + "px";
  }
  function clamp(number, most) { return Math.max(0, Math.min(most - 1, number)); }
  all(".map").forEach(function (map) {
    var image = map.querySelector("image.values"), at = null;
    image.addEventListener("mousemove", function (event) {
      var box = image.getBoundingClientRect();
      pixels(image).then(function (cells) {
        var column = clamp(Math.floor((event.clientX - box.left) / box.width * cells.wide), cells.wide);
        var row = clamp(Math.floor((event.clientY - box.top) / box.height * cells.tall), cells.tall);
        at = [row, column];
        tell(map, cells, row, column, event.clientX, event.clientY);
      });
    });
    image.addEventListener("mouseleave", function () { told.textContent = ""; });
    var picture = map.closest(".picture");
    picture.addEventListener("keydown", function (event) {
      var by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by || picture.querySelector(".map") !== map) { return; }
      event.preventDefault();
      pixels(image).then(function (cells) {
        at = at ? [clamp(at[0] + by[0], cells.tall), clamp(at[1] + by[1], cells.wide)] : [0, 0];
        var box = image.getBoundingClientRect();
        tell(map, cells, at[0], at[1], box.left + (at[1] + 0.5) / cells.wide * box.width, box.top + (at[0] + 0.5) / cells.tall * box.height);
      });
    });
    picture.addEventListener("blur", function () { told.textContent = ""; });
  });
  arrive();
})();
