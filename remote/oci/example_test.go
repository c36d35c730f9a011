package oci_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache/remote"
	"github.com/modcache/modcache/remote/oci"
)

func Example() {
	key, err := remote.GenerateKey() // the build's; nodes have its public key alone
	if err != nil {
		log.Fatal(err)
	}
	const repository = "registry.example/team/modcache"
	backend, err := oci.New(repository, &oci.Options{
		// Without this, it is what docker login has left.
		Credential: auth.StaticCredential("registry.example", auth.Credential{Username: "fleet", Password: "secret"}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	dir, err := os.MkdirTemp("", "fleet") // "" is the directory of modcache.Open
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fleet, err := remote.OpenFleet(dir, repository, &remote.FleetOptions{
		Backend: backend,
		Remote: remote.Options{
			Keyring:   remote.Keyring{Keys: []remote.PublicKey{key.Public()}},
			FirstByte: 2 * time.Second, // the first lookup logs in
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer fleet.Close(context.Background())
	fmt.Println(fleet.Remote())
	// Output: remote registry.example/team/modcache
}
