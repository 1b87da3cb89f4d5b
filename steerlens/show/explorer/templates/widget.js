// a field for the prompt above the page; the kernel writes the page anew for each
function render({ model, el }) {
  const form = document.createElement("form"), label = document.createElement("label");
  const field = Object.assign(document.createElement("input"), { type: "text", value: model.get("prompt") });
  const button = Object.assign(document.createElement("button"), { textContent: "Write" });
  const said = Object.assign(document.createElement("p"), { role: "status" });
  const page = Object.assign(document.createElement("iframe"), { title: "steerlens explorer", srcdoc: model.get("html") });
  page.setAttribute("sandbox", "allow-scripts allow-downloads");
  Object.assign(form.style, { display: "flex", gap: "0.5rem", alignItems: "center" });
  Object.assign(label.style, { flex: "1", display: "flex", gap: "0.5rem" });
  Object.assign(field.style, { flex: "1", minWidth: "0" });
  Object.assign(page.style, { width: "100%", height: "60rem", border: "1px solid #8888", boxSizing: "border-box" });
  label.append("Prompt", field);
  form.append(label, button);
  el.append(form, said, page);

  const show = () => { page.srcdoc = model.get("html"); };
  const type = () => { field.value = model.get("prompt"); };
  const say = () => {
    said.textContent = model.get("said");
    button.disabled = model.get("said").endsWith("…");
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    model.set("prompt", field.value);
    model.save_changes();
  });
  // keys of the field are not the notebook's
  form.addEventListener("keydown", (event) => event.stopPropagation());
  model.on("change:html", show);
  model.on("change:prompt", type);
  model.on("change:said", say);
  say();
  return () => {
    model.off("change:html", show);
    model.off("change:prompt", type);
    model.off("change:said", say);
  };
}
export default { render };
