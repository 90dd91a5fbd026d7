"""Where rows come from: tables, picture folders, shards and hubs, each read row by row."""
