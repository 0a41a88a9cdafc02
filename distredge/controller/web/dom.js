// Making elements, and making what is on the page equal to what should be there.
//
// Views are functions from data to new elements. `update` changes the old ones into them instead of replacing them, so
// that focus, scrolling, open tables and the pointer's place survive each second's update. Text only ever becomes a
// text node or an attribute's value: nothing that a device or a person has written is read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; attributes that are null or false are left out, text becomes text nodes. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** The element with this id. */
export function at(id) {
  return document.getElementById(id);
}

/** Make the children of an element equal to these; those with the same `data-key` are the same, wherever they were. */
export function update(parent, ...children) {
  const wanted = present(children).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child)));
  const keyed = new Map([...parent.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let here = parent.firstChild;
  for (const next of wanted) {
    const old = keyOf(next) ? keyed.get(keyOf(next)) : here;
    if (old && alike(old, next)) {
      if (old === here) here = here.nextSibling;
      else parent.insertBefore(old, here);
      sync(old, next);
    } else {
      parent.insertBefore(next, here);
    }
  }
  while (here) {
    const gone = here;
    here = here.nextSibling;
    gone.remove();
  }
}

function keyOf(node) {
  return node.dataset?.key;
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

/** What a user changes, and an update must not change back. */
const THEIRS = new Set(["open"]);

function sync(old, next) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !THEIRS.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...next.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  update(old, ...next.childNodes);
}
