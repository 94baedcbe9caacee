"use strict";
(function () {
  // the page is whole without this script; it only adds keys, and unfolds what an address names
  var folds = function () { return Array.prototype.slice.call(document.querySelectorAll("details")); };
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
    var items = Array.prototype.filter.call(document.querySelectorAll(".item"), function (item) { return item.offsetParent; });
    var line = 90;
    var at = items.findIndex(function (item) { return item.getBoundingClientRect().top > line + (by > 0 ? 4 : -4); });
    if (at < 0) { at = items.length; }
    var next = items[by > 0 ? at : at - 1];
    if (next) { history.replaceState(null, "", "#" + next.id); next.scrollIntoView(); next.focus({ preventScroll: true }); }
  }
  addEventListener("hashchange", arrive);
  addEventListener("beforeprint", function () { folds().forEach(function (fold) { fold.open = true; }); });
  addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    if (event.key === "j") { step(1); }
    if (event.key === "k") { step(-1); }
    if (event.key === "g") { location.hash = "verdict"; }
    if (event.key === "e") {
      var all = folds(), open = all.some(function (fold) { return !fold.open; });
      all.forEach(function (fold) { fold.open = open; });
    }
  });
  arrive();
})();
