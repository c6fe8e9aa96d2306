module launch

go 1.19
