/** Names of slot files, the one thing about them that a request decides. @module */

/** No separators, nothing hidden, nothing that means another folder. */
export const SLOT_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/;

/** Whether a slot file can have that name. */
export function isSlotName(name: string): boolean {
  return SLOT_NAME.test(name);
}
