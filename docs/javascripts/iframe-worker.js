// Browsers start no Worker for a page that is read from a file. There, the search runs its script
// in a hidden frame instead; Zensical would fetch such a shim from a CDN.
if (location.protocol === "file:") {
  // As between a page and its worker: later, and a copy.
  const send = (target, data) => {
    const copy = structuredClone(data);
    setTimeout(() => target.onmessage?.({ data: copy }));
  };
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<body>";
      this.ready = new Promise((resolve) => {
        this.frame.onload = () => {
          const inner = this.frame.contentWindow;
          const script = inner.document.createElement("script");
          inner.postMessage = (data) => send(this, data);
          script.src = address;
          script.onload = () => resolve(inner);
          script.onerror = () => this.onerror?.(new Event("error", { cancelable: true }));
          inner.document.body.append(script);
        };
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then((inner) => send(inner, data));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
