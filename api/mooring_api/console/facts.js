// Made from the code by tools/make-reference.
export const KINDS = {
  "onOpen": {
    "tone": "good",
    "words": ""
  },
  "onMessage": {
    "tone": "plain",
    "words": "{encoding?blob :}{data}"
  },
  "onError": {
    "tone": "bad",
    "words": "{errors}"
  },
  "onTerminate": {
    "tone": "warn",
    "words": "{code} {wasClean?clean:not clean} {reason}"
  },
  "callbackError": {
    "tone": "bad",
    "words": "{callback}: {exception}: {message}"
  },
  "workerStarted": {
    "tone": "good",
    "words": "pid {pid}"
  },
  "workerExited": {
    "tone": "bad",
    "words": "pid {pid}: {reason}{restarting?; restarting:}"
  },
  "gap": {
    "tone": "warn",
    "words": "events are missing: {lost|an unknown number}"
  }
};
export const TONES = {
  "Connecting": "warn",
  "Connected": "good",
  "Closing": "warn",
  "Closed": "soft",
  "Starting": "warn",
  "Running": "good",
  "Restarting": "warn",
  "Stopping": "warn",
  "Stopped": "soft",
  "Failed": "bad"
};
export const DATA_TYPES = [
  "text",
  "blob",
  "object",
  "auto"
];
export const NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}";
export const DEFAULT_WORKER = "main";
