// Browsers start no Worker from a folder (file://). There the search runs in a hidden frame instead, which has the same
// messages. The theme's worker asks for this name to find its own files.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.append(frame)
      const inner = frame.contentWindow
      const load = (address) =>
        new Promise((resolve, reject) => {
          const script = inner.document.createElement("script")
          Object.assign(script, { src: address, onload: resolve, onerror: reject })
          inner.document.body.append(script)
        })
      inner.importScripts = (...addresses) => addresses.reduce((done, one) => done.then(() => load(one)), Promise.resolve())
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.frame = frame
      load(url).then(() => {
        for (const data of this.waiting) this.tell(data)
        this.waiting = null
      })
    }
    tell(data) {
      const inner = this.frame.contentWindow
      inner.dispatchEvent(new inner.MessageEvent("message", { data }))
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.tell(data)
    }
    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
