module callers

go 1.19

require talk v0.0.0

replace talk => ../talk
