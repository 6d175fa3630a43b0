"""Pure physics: functions from arrays and header values to arrays. No Ray, Zarr, torch or network here."""
