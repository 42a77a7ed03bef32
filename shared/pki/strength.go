package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"math/big"
	"slices"
	"sync"

	"cjj365.cc/bb/shared/problem"
)

// Strength is the type of a public key that may stand in a certificate; a problem if it may not. The checks
// are those of Let's Encrypt's goodkey, except for its lists of keys that are known to have leaked.
func Strength(public crypto.PublicKey) (KeyType, error) {
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		case elliptic.P521():
			return "", weak("P-521 is taken by no public CA")
		}
		return "", weak("its curve is too small")
	case *rsa.PublicKey:
		return rsaStrength(p)
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize || lowOrder(p) {
			return "", weak("it is a point of low order, for which anybody can sign")
		}
		return Ed25519, nil
	}
	return "", weak("its algorithm is not known here")
}

func weak(reason string) error {
	return problem.InvalidArgument.New("The key cannot be used: %s. Make one with ECDSA P-256 or P-384, RSA of 2048, 3072 or 4096 bits, or Ed25519.", reason)
}

func rsaStrength(p *rsa.PublicKey) (KeyType, error) {
	sizes := map[int]KeyType{2048: RSA2048, 3072: RSA3072, 4096: RSA4096}
	kind, ok := sizes[p.N.BitLen()]
	switch {
	case !ok && p.N.BitLen() < 2048:
		return "", weak("an RSA key must have 2048 bits at least")
	case !ok:
		return "", weak("an RSA key must have 2048, 3072 or 4096 bits")
	case p.E < 65537 || p.E%2 == 0:
		return "", weak("the RSA exponent must be odd and 65537 at least")
	case new(big.Int).GCD(nil, nil, p.N, smallPrimes()).Cmp(one) != 0:
		return "", weak("its modulus has a small factor")
	case madeByROCA(p.N):
		return "", weak("it was made by a chip whose keys can be factored (CVE-2017-15361)")
	case closePrimes(p.N):
		return "", weak("the factors of its modulus lie so close together that they can be found")
	}
	return kind, nil
}

var one = big.NewInt(1)

func primesBelow(n int64) []int64 {
	var primes []int64
	for i := int64(2); i < n; i++ {
		if !slices.ContainsFunc(primes, func(p int64) bool { return i%p == 0 }) {
			primes = append(primes, i)
		}
	}
	return primes
}

// smallPrimes is the product of the primes below 752.
var smallPrimes = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for _, p := range primesBelow(752) {
		product.Mul(product, big.NewInt(p))
	}
	return product
})

// powers are, for each prime from 3 to 167, which of its residues are powers of 65537.
var powers = sync.OnceValue(func() map[int64][]bool {
	sets := map[int64][]bool{}
	for _, p := range primesBelow(168)[1:] {
		sets[p] = make([]bool, p)
		for x := int64(1); !sets[p][x]; x = x * 65537 % p {
			sets[p][x] = true
		}
	}
	return sets
})

// madeByROCA tells whether a modulus is a power of 65537 to each of the small primes, as those of Infineon's
// library are ("The Return of Coppersmith's Attack", 2017) and one in 2^27 of others.
func madeByROCA(modulus *big.Int) bool {
	for p, isPower := range powers() {
		if !isPower[new(big.Int).Mod(modulus, big.NewInt(p)).Int64()] {
			return false
		}
	}
	return true
}

// closePrimes tries a hundred rounds of Fermat's factorization (CVE-2022-26320).
func closePrimes(modulus *big.Int) bool {
	a := new(big.Int).Sqrt(modulus)
	for range 100 {
		rest := new(big.Int).Mul(a, a)
		if rest.Sub(rest, modulus); rest.Sign() >= 0 {
			if root := new(big.Int).Sqrt(rest); root.Mul(root, root).Cmp(rest) == 0 {
				return true
			}
		}
		a.Add(a, one)
	}
	return false
}

// lowOrder tells whether an Ed25519 key is one of the eight points whose order divides eight, in whatever
// encoding. Their y is 1, -1, 0, or one of two others.
func lowOrder(key ed25519.PublicKey) bool {
	bytes := slices.Clone(key)
	slices.Reverse(bytes)
	bytes[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(bytes)
	prime := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	y.Mod(y, prime)
	eight, _ := new(big.Int).SetString("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16)
	for _, low := range []*big.Int{new(big.Int), one, eight} {
		if y.Cmp(low) == 0 || new(big.Int).Sub(prime, y).Cmp(low) == 0 {
			return true
		}
	}
	return false
}
