/**
 * Tells when the device has completed something, to whoever looks whether it still does. An isolate
 * has one device at a time that anybody watches, so there is one who is told.
 *
 * @module
 */

let tell = () => {};

/** Has every completion told: a read of what was submitted, a kernel that was compiled. */
export function onCompletion(told: () => void): void {
  tell = told;
}

/** The device has completed something. */
export function completed(): void {
  tell();
}
