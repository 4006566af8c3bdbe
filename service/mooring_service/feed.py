"""From a cursor: stored events, then live ones, each once, in order, at the subscriber's own pace."""
