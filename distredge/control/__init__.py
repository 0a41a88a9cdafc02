"""What devices and requesters say to the service controller over HTTP."""
