/** Which qsd this is. */

/** qsd's own version, as in CHANGELOG.md. */
export const VERSION = "0.1.0";
