// Command guest counts the words of the files named, or of its standard input. It
// exits with 2 if there are none.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
)

func main() {
	in := []io.Reader{os.Stdin}
	if len(os.Args) > 1 {
		in = nil
		for _, name := range os.Args[1:] {
			f, err := os.Open(name)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			in = append(in, f)
		}
	}
	words := bufio.NewScanner(io.MultiReader(in...))
	words.Split(bufio.ScanWords)
	n := 0
	for words.Scan() {
		n++
	}
	if err := words.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n, "words")
	if n == 0 {
		os.Exit(2)
	}
}
