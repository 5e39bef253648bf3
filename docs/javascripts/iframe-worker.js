// Browsers start no Worker for a page that is read from a file. There, the search runs its script
// in a hidden frame instead; Zensical would fetch such a shim from a CDN.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<body>";
      this.ready = new Promise((resolve) => {
        this.frame.onload = () => {
          const inner = this.frame.contentWindow;
          const script = inner.document.createElement("script");
          inner.postMessage = (data) => this.onmessage?.({ data });
          script.src = address;
          script.onload = () => resolve(inner);
          script.onerror = () => this.onerror?.(new Event("error", { cancelable: true }));
          inner.document.body.append(script);
        };
      });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then((inner) => inner.onmessage({ data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
