"""Where level-1 frames come from: files and object stores, JSOC, the simulator."""
