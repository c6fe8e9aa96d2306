// Prints every field of the structs named, in each file: "FILE STRUCT FIELD OFFSET", and "FILE STRUCT . SIZE".
package main

import (
	"debug/dwarf"
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

func main() {
	for _, path := range os.Args[2:] {
		if err := print(path, strings.Split(os.Args[1], ",")); err != nil {
			fmt.Fprintln(os.Stderr, path, err)
			os.Exit(1)
		}
	}
}

func print(path string, wanted []string) error {
	file, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := file.DWARF()
	if err != nil {
		return err
	}
	for reader := data.Reader(); ; {
		entry, err := reader.Next()
		if err != nil || entry == nil {
			return err
		}
		if entry.Tag != dwarf.TagStructType {
			continue
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		for _, struct_ := range wanted {
			if name == struct_ {
				kind, err := data.Type(entry.Offset)
				if err != nil {
					return err
				}
				fmt.Println(path, name, ".", kind.Size())
				fields(path, name, "", 0, kind)
			}
		}
	}
}

func fields(path, name, prefix string, base int64, kind dwarf.Type) {
	for {
		typedef, ok := kind.(*dwarf.TypedefType)
		if !ok {
			break
		}
		kind = typedef.Type
	}
	if struct_, ok := kind.(*dwarf.StructType); ok && strings.Count(prefix, ".") < 4 {
		for _, field := range struct_.Field {
			fmt.Println(path, name, prefix+field.Name, base+field.ByteOffset)
			fields(path, name, prefix+field.Name+".", base+field.ByteOffset, field.Type)
		}
	}
}
