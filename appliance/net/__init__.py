"""Side B: streams between our processes and to peers: channels, TLS, resolver, pools, deadlines."""
