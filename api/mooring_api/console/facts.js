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
  },
  "onDisconnect": {
    "tone": "warn",
    "words": "socket {socket}, {cause}: {code}{reason? :}{reason}; next attempt: {nextAttemptAt@|when its worker is back}"
  },
  "onReconnect": {
    "tone": "good",
    "words": "socket {socket}{restarted? in a new process:} after {downMs~}, at attempt {attempts}; {resumed?nothing is missing:messages may be missing} since {gapFrom@|its begin}"
  },
  "onSilence": {
    "tone": "warn",
    "words": "since {since@}"
  },
  "onUnsent": {
    "tone": "bad",
    "words": "{count+message}, {bytes+byte}: {reason}"
  },
  "hookFailing": {
    "tone": "bad",
    "words": "{hook}: {reason} {error}"
  },
  "hookRecovered": {
    "tone": "good",
    "words": "{hook}: after {downMs~}"
  },
  "hookPaused": {
    "tone": "warn",
    "words": "{hook}: {reason}"
  },
  "hookSkipped": {
    "tone": "bad",
    "words": "{hook}: {count+event}, {from} to {through}"
  },
  "nodeLost": {
    "tone": "bad",
    "words": "{node}: {connections+connection}"
  },
  "nodeReturned": {
    "tone": "good",
    "words": "{node}"
  }
};
export const TONES = {
  "Connecting": "warn",
  "Connected": "good",
  "Reconnecting": "warn",
  "Closing": "warn",
  "Closed": "soft",
  "Starting": "warn",
  "Running": "good",
  "Restarting": "warn",
  "Stopping": "warn",
  "Stopped": "soft",
  "Failed": "bad",
  "Active": "good",
  "Failing": "bad",
  "Paused": "soft"
};
export const DATA_TYPES = [
  "text",
  "blob",
  "object",
  "auto"
];
export const NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}";
export const DEFAULT_WORKER = "main";
export const OPTIONS = [
  {
    "key": "connectTimeout",
    "kind": "number",
    "initial": 10.0,
    "unit": "s",
    "doc": "for the whole handshake",
    "low": 0.001,
    "high": 86400.0
  },
  {
    "key": "closeTimeout",
    "kind": "number",
    "initial": 5.0,
    "unit": "s",
    "doc": "for the answer to our close frame",
    "low": 0.001,
    "high": 86400.0
  },
  {
    "key": "pingInterval",
    "kind": "number",
    "initial": 20.0,
    "unit": "s",
    "doc": "a ping goes out this long after the last byte that came",
    "low": 0,
    "high": 86400.0
  },
  {
    "key": "pingTimeout",
    "kind": "number",
    "initial": 20.0,
    "unit": "s",
    "doc": "without a byte for so long after a ping, the peer is gone: a dead one after both together, at the latest",
    "low": 0.01,
    "high": 86400.0
  },
  {
    "key": "maxMessageSize",
    "kind": "integer",
    "initial": 4194304,
    "unit": "bytes",
    "doc": "of a received message, counted after inflating",
    "low": 1,
    "high": 33554432
  },
  {
    "key": "compress",
    "kind": "boolean",
    "initial": false,
    "unit": "",
    "doc": "offer permessage-deflate"
  },
  {
    "key": "sendTimeout",
    "kind": "number",
    "initial": 10.0,
    "unit": "s",
    "doc": "for a peer that does not read",
    "low": 0.001,
    "high": 86400.0
  },
  {
    "key": "dataTimeout",
    "kind": "number",
    "initial": 0.0,
    "unit": "s",
    "doc": "without a message for so long, whatever pings say, it is silent",
    "low": 0,
    "high": 86400.0
  },
  {
    "key": "queueTtl",
    "kind": "number",
    "initial": 60.0,
    "unit": "s",
    "doc": "so long a message may wait; what was not sent by then comes back in `onUnsent`",
    "low": 0.1,
    "high": 86400.0
  }
];
