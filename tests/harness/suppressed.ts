/**
 * Makes deno show both errors where a test failed and so did what `await using` cleaned up after it: of a
 * SuppressedError it only shows that there is one. CI loads this before all tests; the harness imports it, too.
 */
Object.defineProperty(SuppressedError.prototype, "cause", {
  configurable: true,
  get(this: SuppressedError): AggregateError {
    return new AggregateError([this.suppressed, this.error], "first the failure, then its cleanup");
  },
});
