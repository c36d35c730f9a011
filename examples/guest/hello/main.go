// Command hello is what the examples run if they aren't told to run anything else.
package main

import "fmt"

func main() { fmt.Println("hello from the guest") }
