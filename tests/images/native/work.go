// A Go program: goroutines, listeners and dialers with MPTCP asked for, child processes; one line for each thing done.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"
)

func goroutines() int {
	numbers := make(chan int)
	var crew sync.WaitGroup
	for worker := range 1000 {
		crew.Add(1)
		go func() {
			defer crew.Done()
			time.Sleep(time.Millisecond)
			numbers <- worker
		}()
	}
	go func() {
		crew.Wait()
		close(numbers)
	}()
	sum := 0
	for number := range numbers {
		sum += number
	}
	return sum
}

// Go asks for MPTCP on every listener by default since 1.24, and on a dialer when told to.
func echo(network, address string) string {
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	go func() {
		peer, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(peer, peer)
		peer.Close()
	}()
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	peer, err := dialer.DialContext(context.Background(), network, listener.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(peer, "echo")
	peer.(interface{ CloseWrite() error }).CloseWrite()
	answer, err := io.ReadAll(peer)
	if err != nil {
		log.Fatal(err)
	}
	return string(answer)
}

func children() string {
	var crew sync.WaitGroup
	for range 8 {
		crew.Add(1)
		go func() {
			defer crew.Done()
			if output, err := exec.Command(os.Args[0], "child").Output(); err != nil || string(output) != "42\n" {
				log.Fatal(string(output), err)
			}
		}()
	}
	crew.Wait()
	// A child that has to be killed: Go sends the signal through a pidfd.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := exec.CommandContext(ctx, os.Args[0], "sleep").Run()
	return fmt.Sprintf("8 answered, one ended by %v", err)
}

func main() {
	if len(os.Args) > 1 {
		if os.Args[1] == "sleep" {
			time.Sleep(time.Hour)
		}
		fmt.Println(42)
		return
	}
	fmt.Println("goroutines:", goroutines())
	fmt.Println("tcp:", echo("tcp", "127.0.0.1:0"))
	fmt.Println("unix:", echo("unix", "/agent/runtime/socket"))
	fmt.Println("children:", children())
}
